"""The installation of built wheels; the job itself is `make clean-install`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_the_first_question_of_the_readme_is_found_and_asked_of_the_tiny_model(load_script: Any) -> None:
    words = load_script("clean_install").find_first_question()
    assert words[:4] == ["vlcore", "infer", "--model", "tiny"] and "MODEL" not in words


def test_wheels_that_are_not_built_are_named_before_anything_is_installed(load_script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="lacks a wheel of vlcore or vlcore_internvl; run"):
        load_script("clean_install").main(tmp_path)
