"""Versions, bounds and the changelog of this repository, and of copies that do not agree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = ["CHANGELOG.md", "core/pyproject.toml", "plugins/internvl/pyproject.toml", "plugins/yi_vl/pyproject.toml",
         "examples/vlcore-llava/pyproject.toml"]


@pytest.fixture
def release(load_script: Any) -> Any:
    return load_script("release")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What a release looks at, as version 2.3.4 that is ready."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in FILES[1:]:
        if not name.startswith("examples"):
            change(tmp_path, name, r'^version = ".*"', 'version = "2.3.4"')
        change(tmp_path, name, r'"vlcore>=[\d.]+"', '"vlcore>=2.3"')
    change(tmp_path, "CHANGELOG.md", r"^## Unreleased\n", "## Unreleased\n\n## 2.3.4 (2030-01-02)\n")
    return tmp_path


def change(folder: Path, name: str, pattern: str, new: str) -> None:
    text = (folder / name).read_text("utf8")
    changed = re.sub(pattern, new, text, count=1, flags=re.MULTILINE)
    (folder / name).write_text(changed, "utf8")


def find_all(release: Any, folder: Path, version: str) -> list[str]:
    return [*release.find_faults(folder, version), *release.check_changelog(folder, version)]


def test_the_repository_agrees_with_itself(release: Any) -> None:
    assert list(release.find_faults(ROOT)) == []


def test_a_repository_that_agrees_is_ready(release: Any, copy: Path) -> None:
    assert find_all(release, copy, "2.3.4") == []


@pytest.mark.parametrize(
    ("name", "pattern", "new", "said"),
    [
        (FILES[3], r"^version = .*", 'version = "2.3.3"', "yi_vl/pyproject.toml: version is 2.3.3"),
        (FILES[2], r'"vlcore>=2.3"', '"vlcore>=2.2"', "requires vlcore>=2.2, must be vlcore>=2.3"),
        (FILES[2], r'"vlcore>=2.3"', "", "requires no vlcore"),
        (FILES[4], r'"vlcore>=2.3"', '"vlcore>=0.1"', "llava/pyproject.toml: it requires vlcore>=0.1"),
        ("CHANGELOG.md", r"## 2.3.4 .*", "", "## 0.1.0 follows ## Unreleased, must be ## 2.3.4"),
        ("CHANGELOG.md", r"## 2.3.4 .*", "## 2.3.4", "## 2.3.4 has no date"),
        ("CHANGELOG.md", r"## Unreleased", "## Unreleased\n\n- More.", "still holds changes"),
        ("CHANGELOG.md", r"## Unreleased", "## New", "the first heading must be ## Unreleased"),
    ],
)
def test_what_does_not_agree_is_named(
    release: Any, copy: Path, name: str, pattern: str, new: str, said: str
) -> None:
    change(copy, name, pattern, new)
    (fault,) = find_all(release, copy, "2.3.4")
    assert said in fault


def test_a_version_that_is_none_is_refused(release: Any, copy: Path) -> None:
    assert "not written like" in next(release.find_faults(copy, "v2"))


def test_the_command_ends_with_1_for_what_is_not_ready() -> None:
    command = [sys.executable, str(ROOT / ".ci" / "release.py")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    done = subprocess.run([*command, "99.0.0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "core/pyproject.toml: version is" in done.stderr
