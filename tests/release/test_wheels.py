"""What the built distributions hold."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "plugins" / "yi_vl"


@pytest.fixture(scope="module")
def built(load_script: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """The script, and the source distribution and wheel that it built of one project."""
    wheels = load_script("wheels")
    return wheels, *wheels.build(PROJECT, tmp_path_factory.mktemp("dist"))


def leave_out(wheel: Path, folder: Path, name: str, instead: bytes | None = None) -> Path:
    """A copy of a wheel without a file, or with another content of it."""
    changed = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(changed, "w") as target:
        for item in source.namelist():
            if not item.endswith(name):
                target.writestr(item, source.read(item))
            elif instead is not None:
                target.writestr(item, instead)
    return changed


def test_a_wheel_and_a_source_distribution_hold_what_they_must(built: Any) -> None:
    wheels, source, wheel = built
    assert list(wheels.find_faults(PROJECT, source, wheel)) == []


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        ("py.typed", None, "lacks vlcore_yi_vl/py.typed"),
        ("tiny.py", None, "lacks vlcore_yi_vl/tiny.py"),
        ("LICENSE", None, "its licence is not that of the repository"),
        ("LICENSE", b"MIT", "its licence is not that of the repository"),
        ("entry_points.txt", None, "registers nothing"),
    ],
)
def test_what_a_wheel_lacks_is_named(built: Any, tmp_path: Path, name: str, instead: bytes | None, said: str) -> None:
    wheels, source, wheel = built
    faults = list(wheels.find_faults(PROJECT, source, leave_out(wheel, tmp_path, name, instead)))
    assert any(said in fault for fault in faults)


def test_what_has_no_place_in_a_wheel_is_named(built: Any, tmp_path: Path) -> None:
    wheels, source, wheel = built
    grown = Path(shutil.copy(wheel, tmp_path))
    with zipfile.ZipFile(grown, "a") as archive:
        archive.writestr("tests/test_it.py", "")
    assert list(wheels.find_faults(PROJECT, source, grown)) == [
        f"{wheel.name}: holds tests/test_it.py, which is not below src"]


@pytest.mark.parametrize("project", ["core", *(f"plugins/{path.name}" for path in (ROOT / "plugins").iterdir())])
def test_every_distribution_carries_the_licence_of_the_repository(project: str) -> None:
    assert (ROOT / project / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
