"""What the oldest and the newest libraries are; the job itself is `make matrix`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


@pytest.fixture
def matrix(load_script: Any) -> Any:
    return load_script("matrix")


def test_every_requirement_says_the_oldest_version_that_will_do(matrix: Any) -> None:
    requirements = [Requirement(line) for line in matrix.read_requirements()]
    assert {"transformers", "peft", "tiktoken", "bitsandbytes"} <= {requirement.name for requirement in requirements}
    assert [str(r) for r in requirements if not any(part.operator == ">=" for part in r.specifier)] == []


def test_what_is_tested_every_time_is_not_older_than_the_oldest(matrix: Any) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    requirements = [Requirement(line) for line in matrix.read_requirements()]
    assert [str(r) for r in requirements if not r.specifier.contains(pinned[r.name])] == []


def test_the_tests_of_a_leg_are_there(matrix: Any) -> None:
    places = [ROOT / name for name in (*matrix.FOLDERS, *(f"tests/core/test_{name}.py" for name in matrix.MODULES))]
    assert [str(place) for place in places if not place.exists()] == []
