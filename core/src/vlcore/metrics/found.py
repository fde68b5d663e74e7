"""Metrics of boxes: how many of a label's boxes an answer finds, and how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlcore.boxes import Box
from vlcore.metrics.record import Facts, Score

#: Left, top, right, bottom.
Rectangle = tuple[float, float, float, float]
#: Overlap from which a box counts as found.
FOUND = 0.5


def enclose(box: Box) -> Rectangle:
    """The upright rectangle around the corners of a box, in whatever order they are."""
    across, down = zip(*box.points, strict=True)
    return min(across), min(down), max(across), max(down)


def find_overlap(one: Rectangle, other: Rectangle) -> float:
    """Intersection over union of two rectangles; 1 for a point or line and itself.

    >>> find_overlap((0, 0, 2, 1), (1, 0, 3, 1))
    0.3333333333333333
    """
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    union = sum((right - left) * (bottom - top) for left, top, right, bottom in (one, other)) - common
    return common / union if union > 0 else float(one == other)


def match_boxes(found: Sequence[Box], wanted: Sequence[Box]) -> list[float]:
    """The overlaps of pairs of boxes, each box in one pair at most, the largest overlaps first.

    Names of boxes do not count.
    """
    given, right = [enclose(box) for box in found], [enclose(box) for box in wanted]
    pairs = sorted(
        ((find_overlap(one, other), i, j) for i, one in enumerate(given) for j, other in enumerate(right)),
        key=lambda pair: -pair[0],
    )
    free_given, free_right, overlaps = set(range(len(given))), set(range(len(right))), []
    for overlap, i, j in pairs:
        if overlap > 0 and i in free_given and j in free_right:
            free_given.remove(i)
            free_right.remove(j)
            overlaps.append(overlap)
    return overlaps


def box_recall(answer: str, labels: Sequence[str], facts: Facts) -> Score | None:
    """The label's boxes that the answer finds with an overlap of at least 0.5, over all boxes of the label."""
    return _score_boxes(answer, labels, facts, lambda overlap: float(overlap >= FOUND))


def box_iou(answer: str, labels: Sequence[str], facts: Facts) -> Score | None:
    """The sum of the overlaps with the label's boxes, over all boxes of the label."""
    return _score_boxes(answer, labels, facts, lambda overlap: overlap)


def _score_boxes(
    answer: str, labels: Sequence[str], facts: Facts, count: Callable[[float], float]
) -> Score | None:
    """The score of the best label; None when no label has boxes."""
    if facts.grounding is None:
        return None
    found = facts.grounding.read(answer)
    wanted = [boxes for label in labels if (boxes := facts.grounding.read(label))]
    scores = [Score(sum(map(count, match_boxes(found, boxes))), len(boxes)) for boxes in wanted]
    return max(scores, key=lambda score: score.value, default=None)
