"""Every recorded case of every family, through the public API."""

from __future__ import annotations

from pathlib import Path

import pytest
from vlcore.parity import Case, find_cases, run_cases
from vlcore.plugins import get_registry

DATA = Path(__file__).parent / "data"
#: A fuller set that may lie beside the repository.
BESIDE = Path(__file__).parents[3] / "shared" / "parity"


def list_cases() -> list[Case]:
    installed = [family.name for family in get_registry().families.values()]
    return find_cases([DATA, *(BESIDE / name for name in installed if (BESIDE / name).is_dir())])


def by_checkpoint() -> list[list[Case]]:
    groups: dict[Path, list[Case]] = {}
    for case in list_cases():
        groups.setdefault(case.checkpoint, []).append(case)
    return list(groups.values())


def name_checkpoint(cases: list[Case]) -> str:
    folder = cases[0].checkpoint.parent
    return f"beside-{folder.name}" if BESIDE in folder.parents else folder.name


@pytest.mark.parametrize("cases", by_checkpoint(), ids=name_checkpoint)
def test_a_checkpoint_computes_what_its_release_computes(cases: list[Case]) -> None:
    outcomes = list(run_cases(cases))
    assert len(outcomes) == len(cases)
    assert [outcome.describe() for outcome in outcomes if not outcome.passed] == []
