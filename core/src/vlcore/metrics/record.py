"""What a metric is, what it is told of a row besides its texts, and what it says of the row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlcore.boxes import Grounding


@dataclass(frozen=True, slots=True)
class Score:
    """What a metric says of a row: some points out of a weight.

    The figure of several rows is the sum of their points over the sum of their weights. With weight 1 it is the mean
    over rows; with the number of characters of the label it is the error rate of a corpus.

    Attributes:
        points: what the row has, at least 0.
        weight: what it could have, at least 0.

    Raises:
        ValueError: for numbers that are negative, infinite or no numbers.
    """

    points: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.points < math.inf and 0 <= self.weight < math.inf):
            raise ValueError(f"{self} is no score: points and weight are finite and at least 0")

    @property
    def value(self) -> float:
        """The figure of the row alone, from 0 to 1; more points than weight are 1."""
        return min(1.0, divide(self.points, self.weight))


def divide(points: float, weight: float) -> float:
    """Points over weight; without a weight, 1 when there are points and else 0."""
    return points / weight if weight else float(points > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a metric may know of a row besides answer and labels.

    Attributes:
        grounding: how the model's family writes boxes; None for families that write none.
    """

    grounding: Grounding | None = None


def _need_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A measure of answers.

    Attributes:
        name: what a user types after `--metric`.
        help: what it measures, in a sentence.
        score: a pure function of an answer, the labels of its row (at least one) and the facts. It gives None for
            a row that it cannot be asked of, such as a label without boxes.
        greater_is_better: False for errors and distances.
        needs_boxes: whether it can only be asked of families that write boxes.
        check: called before the first row; raises `ExtraMissing` when a package is not installed.
    """

    name: str
    help: str
    score: Callable[[str, Sequence[str], Facts], Score | None]
    greater_is_better: bool = True
    needs_boxes: bool = False
    check: Callable[[], object] = _need_nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RowScores:
    """The scores of a row.

    Attributes:
        scores: by the metrics' names, None where a metric cannot be asked; empty for a row without a label.
        labelled: whether the row has a label.
        failed: whether the row could not be answered.
    """

    scores: Mapping[str, Score | None]
    labelled: bool
    failed: bool

    @property
    def values(self) -> dict[str, float | None]:
        """The row's own figures, from 0 to 1, by the metrics' names."""
        return {name: None if score is None else score.value for name, score in self.scores.items()}
