"""The installation of built wheels; the job itself is `make clean-install`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_the_first_question_of_the_readme_is_found_and_asked_of_the_tiny_model(load_script: Any) -> None:
    words = load_script("clean_install").find_first_question()
    assert words[:4] == ["vlcore", "infer", "--model", "tiny"] and "MODEL" not in words


def test_wheels_that_are_not_built_are_named_before_anything_is_installed(load_script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="lacks a wheel of vlcore or vlcore_internvl; run"):
        load_script("clean_install").main(tmp_path)


def test_wheels_are_found_from_wherever_pip_runs(
    load_script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, commands = load_script("clean_install"), list[list[str]]()
    for name in script.FIRST:
        (tmp_path / "dist").mkdir(exist_ok=True)
        (tmp_path / "dist" / f"{name}-1-py3-none-any.whl").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script.venv, "create", lambda *args, **options: None)
    monkeypatch.setattr(script.subprocess, "run", lambda command, **options: (
        commands.append(command), SimpleNamespace(returncode=0))[1])
    script.main(Path("dist"))
    wheels = [Path(word) for command in commands for word in command if word.endswith(".whl")]
    assert len(wheels) == 2 and all(wheel.is_absolute() and wheel.is_file() for wheel in wheels)
