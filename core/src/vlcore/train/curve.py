"""The loss curve as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Weight of the past in the smoothed line.
SMOOTHING = 0.9


def draw_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws training loss, smoothed and raw, and validation loss over the steps.

    Args:
        history: entries of the log; those with `loss` or `eval_loss` beside `step` are drawn.
        path: the PNG to write; replaced as a whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps, losses = pick_series(history, "loss")
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, label="training")
    axes.plot(steps, smooth(losses), color="tab:blue", label="training, smoothed")
    evaluated = pick_series(history, "eval_loss")
    axes.plot(*evaluated, color="tab:orange", marker="o", markersize=3, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss a token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()
    part = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure).print_png(part)  # type: ignore[no-untyped-call]
    part.replace(path)


def pick_series(history: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one figure of the log."""
    found = [(entry["step"], entry[name]) for entry in history if name in entry]
    return [step for step, _ in found], [value for _, value in found]


def smooth(values: Sequence[float]) -> list[float]:
    """The exponential moving average, corrected for its start.

    >>> smooth([2.0, 2.0])
    [2.0, 2.0]
    """
    mean, line = 0.0, []
    for count, value in enumerate(values, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        line.append(mean / (1 - SMOOTHING**count))
    return line
