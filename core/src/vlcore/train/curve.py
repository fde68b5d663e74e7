"""The figures of a training over its steps, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.train.goal import list_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Weight of the past in the smoothed line.
SMOOTHING = 0.9
#: Small panels beside each other below the losses, and what they show beside the figures of evaluations.
COLUMNS = 3
BESIDE = {"learning_rate": "learning rate", "grad_norm": "gradient norm"}


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the losses, and below them a small panel each for learning rate, gradient norm and figures of evaluations.

    Args:
        history: entries of the log, each with its `step`; a panel without values is left out.
        path: the PNG to write; replaced as a whole.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    measured = dict.fromkeys(name for entry in history for name in list_figures(entry))
    panels = {name: label for name, label in BESIDE.items() if any(name in entry for entry in history)}
    panels |= {name: name.removeprefix("eval_") for name in measured}
    rows = [list(panels)[at : at + COLUMNS] for at in range(0, len(panels), COLUMNS)]
    mosaic: Any = [["loss"] * COLUMNS, *([*row, *["."] * (COLUMNS - len(row))] for row in rows)]
    figure = Figure(figsize=(8, 4 + 2 * len(rows)), layout="constrained")
    axes: dict[str, Axes] = figure.subplot_mosaic(mosaic, height_ratios=[4, *[2] * len(rows)])
    draw_losses(axes["loss"], history)
    for name, label in panels.items():
        draw_panel(axes[name], pick_series(history, name), label, dotted=name in measured)
    part = path.with_name(f".{path.name}")
    FigureCanvasAgg(figure).print_png(part)  # type: ignore[no-untyped-call]
    part.replace(path)


def draw_losses(axes: Axes, history: Sequence[Mapping[str, Any]]) -> None:
    """Training loss, smoothed and raw, and validation loss."""
    steps, losses = pick_series(history, "loss")
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, label="training")
    axes.plot(steps, smooth(losses), color="tab:blue", label="training, smoothed")
    evaluated = pick_series(history, "eval_loss")
    axes.plot(*evaluated, color="tab:orange", marker="o", markersize=3, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel("loss a token (nats)")
    axes.grid(alpha=0.3)
    axes.legend()


def draw_panel(axes: Axes, series: tuple[list[int], list[float]], label: str, *, dotted: bool) -> None:
    """One figure over the steps; `dotted` marks each value."""
    axes.plot(*series, color="tab:orange" if dotted else "tab:green", marker="o" if dotted else "", markersize=3,
              linewidth=1)
    axes.set_title(label, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=True)
    axes.yaxis.offsetText.set_fontsize(7)
    axes.grid(alpha=0.3)


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
