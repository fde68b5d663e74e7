"""Names that a user types to metrics."""

from __future__ import annotations

from collections.abc import Iterable

from vlcore.errors import UsageError, suggest_near
from vlcore.metrics.record import Facts, Metric


def choose_metrics(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of these names, each once, in their order.

    Raises:
        UsageError: for a name that no plugin registers, with near names.
        ExtraMissing: when a package that one of them needs is not installed.
    """
    from vlcore.plugins import get_registry

    known = get_registry().metrics
    chosen = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise UsageError(f"metric {name}", "no installed plugin has it", suggest_near(name, known))
        known[name].check()
        chosen.append(known[name])
    return tuple(chosen)


def check_facts(metrics: Iterable[Metric], facts: Facts) -> None:
    """Refuses metrics of boxes for a family that writes none.

    Raises:
        UsageError: naming the metrics.
    """
    blind = [metric.name for metric in metrics if metric.needs_boxes and facts.grounding is None]
    if blind:
        raise UsageError(f"metric {', '.join(blind)}", "models of this family write no boxes", "leave it out")
