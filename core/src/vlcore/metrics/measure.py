"""Answers and labels to figures: a score for each row, and for all rows a figure with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlcore.errors import UsageError
from vlcore.metrics.choose import check_facts
from vlcore.metrics.record import Facts, Metric, RowScores, Score, divide

#: How often rows are drawn anew for an interval, the seed of the draws, and the part of them inside.
RESAMPLES, SEED, INSIDE = 1000, 0, 0.95
#: What a row has for labels: a text, several that are equally good, or nothing.
Labels = str | Sequence[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What a metric says of all rows.

    Attributes:
        value: sum of points over sum of weights; None when no row could be scored.
        low: lower end of the 95% interval of the percentile bootstrap over rows; None as `value`.
        high: its upper end.
        rows: how many rows are in it.
        greater_is_better: as of the metric.
    """

    value: float | None
    low: float | None
    high: float | None
    rows: int
    greater_is_better: bool

    def beats(self, other: Figure | None) -> bool:
        """Whether this figure is better than another one; any value is better than none."""
        if self.value is None:
            return False
        if other is None or other.value is None:
            return True
        return self.value > other.value if self.greater_is_better else self.value < other.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What several metrics say of all rows.

    Attributes:
        metrics: the figures by the metrics' names.
        rows: how many rows there are.
        unlabelled: how many of them have no label; they are in no figure.
        failed: how many could not be answered; those with a label are in the figures, with the worst score.
    """

    metrics: Mapping[str, Figure]
    rows: int
    unlabelled: int
    failed: int


def measure(
    metrics: Sequence[Metric], answers: Sequence[str | None], labels: Sequence[Labels], facts: Facts | None = None
) -> Figures:
    """Holds answers against labels.

    Args:
        metrics: what to measure, as `choose_metrics` gives them.
        answers: a text a row; None for a row that could not be answered.
        labels: as many; of several texts in a row each is right. None, or no text, for a row without a label.
        facts: what else the metrics may know.

    Raises:
        UsageError: when there are not as many labels as answers, or a metric needs what the facts lack.
    """
    facts = facts or Facts()
    if len(answers) != len(labels):
        raise UsageError(f"{len(answers)} answers and {len(labels)} labels", "a row has one of each", "give as many")
    check_facts(metrics, facts)
    rows = [measure_row(metrics, answer, label, facts) for answer, label in zip(answers, labels, strict=True)]
    return summarise(metrics, rows)


def measure_row(metrics: Sequence[Metric], answer: str | None, labels: Labels, facts: Facts) -> RowScores:
    """The scores of one row; arguments as of `measure`."""
    texts = [labels] if isinstance(labels, str) else list(labels or ())
    scores = {metric.name: _score(metric, answer, texts, facts) for metric in metrics} if texts else {}
    return RowScores(scores=scores, labelled=bool(texts), failed=answer is None)


def _score(metric: Metric, answer: str | None, labels: Sequence[str], facts: Facts) -> Score | None:
    score = metric.score(answer or "", labels, facts)
    if answer is None and score is not None:
        # An empty answer may be right, none at all never is.
        return Score(0.0 if metric.greater_is_better else max(score.points, score.weight), score.weight)
    return score


def summarise(metrics: Sequence[Metric], rows: Sequence[RowScores]) -> Figures:
    """The figures of rows that `measure_row` scored, of one process or gathered from several."""
    figures = {}
    for metric in metrics:
        scores = [score for row in rows if (score := row.scores.get(metric.name)) is not None]
        figures[metric.name] = _figure(scores, metric.greater_is_better)
    return Figures(
        metrics=figures, rows=len(rows), unlabelled=sum(not row.labelled for row in rows),
        failed=sum(row.failed for row in rows),
    )


def _figure(scores: Sequence[Score], greater_is_better: bool) -> Figure:
    if not scores:
        return Figure(value=None, low=None, high=None, rows=0, greater_is_better=greater_is_better)
    value = divide(sum(score.points for score in scores), sum(score.weight for score in scores))
    low, high = find_interval(scores)
    return Figure(value=value, low=low, high=high, rows=len(scores), greater_is_better=greater_is_better)


def find_interval(scores: Sequence[Score]) -> tuple[float, float]:
    """The 95% interval of the figure of some rows, by the percentile bootstrap.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. As many rows as there are, at
    least one, are drawn with replacement, 1000 times; the draws are seeded, so that equal scores give equal intervals.
    """
    import numpy

    points = numpy.array([score.points for score in scores], numpy.float64)
    weights = numpy.array([score.weight for score in scores], numpy.float64)
    draws, figures = numpy.random.default_rng(SEED), []
    for _ in range(RESAMPLES):
        drawn = draws.integers(len(scores), size=len(scores))
        figures.append(divide(float(points[drawn].sum()), float(weights[drawn].sum())))
    low, high = numpy.quantile(figures, [(1 - INSIDE) / 2, (1 + INSIDE) / 2])
    return float(low), float(high)


def write_figures(figures: Figures) -> dict[str, Any]:
    """The plain form of figures, ready for json."""
    from dataclasses import asdict

    interval = {"level": INSIDE, "method": "percentile bootstrap over rows", "resamples": RESAMPLES, "seed": SEED}
    return {**asdict(figures), "interval": interval}
