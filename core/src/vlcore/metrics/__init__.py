"""Metrics: what the answers to a data set are worth, held against its labels.

Plugins add metrics through the hook `register_metrics`; the core's own are in `builtin`. Light at import.
"""

from __future__ import annotations

from vlcore.metrics.choose import check_facts, choose_metrics
from vlcore.metrics.measure import Figure, Figures, measure, measure_row, summarise, write_figures
from vlcore.metrics.record import Facts, Metric, RowScores, Score

__all__ = [
    "Facts",
    "Figure",
    "Figures",
    "Metric",
    "RowScores",
    "Score",
    "check_facts",
    "choose_metrics",
    "measure",
    "measure_row",
    "summarise",
    "write_figures",
]
