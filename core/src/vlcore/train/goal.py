"""What makes an evaluation better than another, which checkpoint is the best, and when to give up.

All of it is read out of the history of the log, which a checkpoint holds: a resumed run knows what the run that was
never stopped knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The file in a run's folder that names its best checkpoint.
BEST_FILE = "best.json"
#: What Trainer says of an evaluation beside its figures.
ASIDE = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")


@dataclass(frozen=True, slots=True)
class Goal:
    """The figure that counts.

    Attributes:
        name: its name in the log.
        greater_is_better: whether more of it is better.
        patience: evaluations without a better figure that end the training; 0 for none.
        threshold: a figure that is better by no more than this is not counted as better by `count_waits`.
    """

    name: str = "eval_loss"
    greater_is_better: bool = False
    patience: int = 0
    threshold: float = 0.0

    def read(self, history: Iterable[Mapping[str, Any]]) -> dict[int, float]:
        """The figure of each evaluation by its step, oldest first."""
        return {int(entry["step"]): float(entry[self.name]) for entry in history if self.name in entry}

    def gain(self, value: float, other: float) -> float:
        """By how much a value is better than another; negative when it is worse."""
        return value - other if self.greater_is_better else other - value

    def find_best(self, values: Mapping[int, float], steps: Iterable[int] | None = None) -> int | None:
        """The step of the best value, the first one of several that are equal; None without any.

        Args:
            values: as `read` gives them.
            steps: only these steps count; None for all.
        """
        sign = 1 if self.greater_is_better else -1
        known = sorted(values if steps is None else values.keys() & set(steps))
        return max(known, key=lambda step: sign * values[step], default=None)

    def count_waits(self, values: Mapping[int, float]) -> int:
        """How many evaluations at the end brought no better figure than the best before them.

        The best moves only when it is beaten by more than the threshold, so that many small steps count in the end.

        >>> Goal(threshold=0.1).count_waits({1: 1.0, 2: 0.95, 3: 0.89, 4: 0.85})
        1
        """
        best, waits = None, 0
        for value in values.values():
            if best is None or self.gain(value, best) > self.threshold:
                best, waits = value, 0
            else:
                waits += 1
        return waits

    def is_given_up(self, history: Iterable[Mapping[str, Any]]) -> bool:
        """Whether patience has run out."""
        return bool(self.patience) and self.count_waits(self.read(history)) >= self.patience


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint of a run.

    Attributes:
        metric: the name of the figure in the log.
        value: the figure.
        step: the step of the checkpoint.
        better: the step of a better evaluation that left no checkpoint; None when there is none.
    """

    metric: str
    value: float
    step: int
    better: int | None = None


def choose_best(goal: Goal, history: Sequence[Mapping[str, Any]], steps: Iterable[int]) -> Best | None:
    """The best of the checkpoints that were evaluated in their step; None without any.

    Args:
        goal: what counts.
        history: the log.
        steps: steps with a checkpoint.
    """
    values = goal.read(history)
    step, first = goal.find_best(values, steps), goal.find_best(values)
    if step is None or first is None:
        return None
    return Best(goal.name, values[step], step, first if goal.gain(values[first], values[step]) > 0 else None)


def write_best(best: Best | None, folder: Path) -> None:
    """Writes which checkpoint is the best into a run's folder, renamed into place; nothing when there is none."""
    if best is None:
        return
    plain = {"checkpoint": f"checkpoint-{best.step}", "step": best.step, "metric": best.metric, "value": best.value}
    part = folder / f".{BEST_FILE}"
    part.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf8")
    part.replace(folder / BEST_FILE)


def list_figures(entry: Mapping[str, Any]) -> list[str]:
    """The names of an entry's figures of an evaluation, the loss apart, in their order."""
    return [name for name in entry if name.startswith("eval_") and name not in ("eval_loss", *ASIDE)]
