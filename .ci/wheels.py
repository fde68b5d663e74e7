#!/usr/bin/env python3
"""Builds a source distribution and a wheel of every project into a folder, and looks at what they hold.

    .ci/wheels.py [FOLDER]

A wheel is built from its source distribution, so that neither lacks anything. Needs `build` and `hatchling`.
"""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [ROOT / "core", *sorted((ROOT / "plugins").iterdir())]


def build(project: Path, folder: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel of a project."""
    table = tomllib.loads((project / "pyproject.toml").read_text("utf8"))["project"]
    name = f"{table['name'].replace('-', '_')}-{table['version']}"
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"wheels: {project.name} does not build\n{done.stdout}{done.stderr}")
    return folder / f"{name}.tar.gz", folder / f"{name}-py3-none-any.whl"


def find_faults(project: Path, source: Path, wheel: Path) -> Iterator[str]:
    """What is missing in the files of a project, or has no place in them."""
    sources = project / "src"
    package = next(path.name for path in sources.iterdir() if (path / "__init__.py").exists())
    wanted = {str(p.relative_to(sources)) for p in sources.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        info = next(name.split("/")[0] for name in held if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode("utf8"))
        licence = archive.read(f"{info}/licenses/LICENSE") if f"{info}/licenses/LICENSE" in held else b""
    modules = {name for name in held if not name.startswith(f"{info}/")}
    yield from (f"{wheel.name}: lacks {name}" for name in sorted(wanted - modules))
    yield from (f"{wheel.name}: holds {name}, which is not below src" for name in sorted(modules - wanted))
    if f"{package}/py.typed" not in modules:
        yield f"{wheel.name}: lacks {package}/py.typed"
    if licence != (ROOT / "LICENSE").read_bytes():
        yield f"{wheel.name}: its licence is not that of the repository"
    if len(metadata.get_payload()) < 200 or "text/markdown" not in metadata.get("Description-Content-Type", ""):
        yield f"{wheel.name}: its page on an index would be empty, write {project.name}/README.md"
    if f"{info}/entry_points.txt" not in held:
        yield f"{wheel.name}: registers nothing"
    with tarfile.open(source) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    needed = {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO", *(f"src/{name}" for name in wanted)}
    yield from (f"{source.name}: lacks {name}" for name in sorted(needed - names))
    yield from (f"{source.name}: holds {name}" for name in sorted(names - needed - {".gitignore"}))


def main(folder: Path) -> None:
    """The command line; exit code 1 for faults."""
    for old in (*folder.glob("vlcore*.whl"), *folder.glob("vlcore*.tar.gz")):
        old.unlink()
    faults = [fault for project in PROJECTS for fault in find_faults(project, *build(project, folder))]
    for fault in faults:
        print(f"wheels: {fault}", file=sys.stderr)
    print(f"{len(PROJECTS)} projects in {folder}: {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist"))
