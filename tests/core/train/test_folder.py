from __future__ import annotations

import re
from pathlib import Path

import pytest
from vlcore.errors import CheckpointError
from vlcore.train.folder import choose_removed, find_resumed, make_run_folder


def test_versions_count_up(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "v10-20240801-101500").mkdir(parents=True)
    (tmp_path / "tiny" / "v9-20240801-101500").mkdir()
    assert re.fullmatch(r"v11-\d{8}-\d{6}", make_run_folder(tmp_path, "tiny").name)
    assert make_run_folder(tmp_path, "other").name.startswith("v0-")


@pytest.mark.parametrize(
    ("limit", "removed"), [(1, [10, 30]), (2, [10, 30]), (3, [10]), (4, []), (9, [])],
)
def test_the_last_and_the_best_stay_whatever_the_limit(limit: int, removed: list[int]) -> None:
    assert choose_removed([10, 20, 30, 40], 20, limit) == removed


def test_without_evaluations_the_newest_stay() -> None:
    assert choose_removed([10, 20, 30], None, 2) == [10]


def test_no_run_to_go_on_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run there has a whole checkpoint"):
        find_resumed("latest", tmp_path, "tiny")
    with pytest.raises(CheckpointError, match="there is no such folder"):
        find_resumed(str(tmp_path / "none"), tmp_path, "tiny")
    assert find_resumed("", tmp_path, "tiny") is None
