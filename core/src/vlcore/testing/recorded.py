"""Recorded parity data: what the released code computes, where an author has recorded it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlcore.errors import VlcoreError
from vlcore.parity import Case, find_cases, run_cases
from vlcore.resolve import open_checkpoint
from vlcore.testing.outcome import Fault, NotApplicable

if TYPE_CHECKING:
    from vlcore.testing.subject import Subject


def check_recorded(subject: Subject) -> None:
    """Every recorded case of the family is met: prompt, ids, pixels, features, scores, loss, answer."""
    if not subject.parity:
        raise NotApplicable("no parity data was given (--parity FOLDER)")
    cases = [case for case in find_cases(subject.parity) if is_own(subject, case)]
    if not cases:
        raise NotApplicable("the parity data holds no checkpoint of this family")
    for outcome in run_cases(cases):
        if not outcome.passed:
            raise Fault(f"recorded case {outcome.model}/{outcome.case}", "; ".join(outcome.faults),
                        "compute what the release computes: vlcore parity FOLDER shows every value")


def is_own(subject: Subject, case: Case) -> bool:
    """Whether a case is of the family that is checked."""
    try:
        return open_checkpoint(case.checkpoint).family.name == subject.family.name
    except VlcoreError:
        return False  # no plugin owns it, or another one rejects it
