#!/usr/bin/env python3
"""Whether versions, bounds and the changelog agree; see docs/releasing.md.

    .ci/release.py [VERSION]

With a version they must be ready to be released as that. A line for each fault; exit code 1 when there are some.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEADING = re.compile(r"^## (\S+)(?: \((\d{4}-\d{2}-\d{2})\))?$", re.MULTILINE)


def read_projects(root: Path, *patterns: str) -> dict[str, dict[str, Any]]:
    """The `[project]` tables of some projects, by the path of their files."""
    files = [file for pattern in patterns for file in sorted(root.glob(f"{pattern}/pyproject.toml"))]
    return {str(file.relative_to(root)): tomllib.loads(file.read_text("utf8"))["project"] for file in files}


def find_faults(root: Path, version: str = "") -> Iterator[str]:
    """What does not agree, a line each.

    Args:
        root: the repository.
        version: what is to be released; empty for a repository between two releases.
    """
    projects = read_projects(root, "core", "plugins/*")
    version = version or next(iter(projects.values()))["version"]
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", version):
        yield f"version {version}: it is not written like 1.2.3 or 1.2.3rc1"
        return
    for file, project in projects.items():
        if project["version"] != version:
            yield f"{file}: version is {project['version']}, must be {version}"
    for file, project in read_projects(root, "plugins/*", "examples/*").items():
        yield from check_bound(file, project, version)


def check_bound(file: str, project: dict[str, Any], version: str) -> Iterator[str]:
    """A plugin or example needs the core it is released with, or a later one of that series."""
    wanted = f"vlcore>={'.'.join(version.split('.')[:2])}"
    bounds = [line.replace(" ", "") for line in project["dependencies"] if re.match(r"vlcore\b(?!-)", line)]
    if [re.sub(r"\[.*\]", "", bound) for bound in bounds] != [wanted]:
        yield f"{file}: it requires {', '.join(bounds) or 'no vlcore'}, must be {wanted}"


def check_changelog(root: Path, version: str) -> Iterator[str]:
    """A release has a dated heading behind an empty `Unreleased`."""
    text = (root / "CHANGELOG.md").read_text("utf8")
    headings = [(match[1], match[2], match.start(), match.end()) for match in HEADING.finditer(text)]
    names = [name for name, *_ in headings]
    if names[:1] != ["Unreleased"]:
        yield "CHANGELOG.md: the first heading must be ## Unreleased"
    elif names[1:2] != [version]:
        yield f"CHANGELOG.md: ## {''.join(names[1:2])} follows ## Unreleased, must be ## {version} (YEAR-MONTH-DAY)"
    elif headings[1][1] is None:
        yield f"CHANGELOG.md: ## {version} has no date, write ## {version} (YEAR-MONTH-DAY)"
    elif text[headings[0][3] : headings[1][2]].strip():
        yield f"CHANGELOG.md: ## Unreleased still holds changes, move them below ## {version}"


def main(version: str = "") -> None:
    """The command line."""
    faults = [*find_faults(ROOT, version), *(check_changelog(ROOT, version) if version else ())]
    for fault in faults:
        print(f"release: {fault}", file=sys.stderr)
    print(f"{len(faults)} faults" if faults else f"versions agree{f': {version} is ready' if version else ''}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main(*sys.argv[1:2])
