#!/usr/bin/env python3
"""Installs the built wheels into an environment that has nothing else, and does what the README does first.

    .ci/clean_install.py [FOLDER OF THE WHEELS]

`pip install` of the core and of vlcore-internvl, then the README's first question, on a tiny checkpoint.
"""

import re
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
#: Distributions that a reader installs first.
FIRST = ("vlcore", "vlcore_internvl")


def find_first_question() -> list[str]:
    """The first question that the README asks a model, as words."""
    found = re.search(r"^\$ (vlcore infer .*)$", (ROOT / "README.md").read_text("utf8"), re.MULTILINE)
    if not found:
        sys.exit("clean_install: the README asks no model anything")
    return shlex.split(found[1].replace("MODEL", "tiny"))


def main(wheels: Path) -> None:
    """The command line; ends with the exit code of what fails."""
    files = [next(iter(wheels.resolve().glob(f"{name}-*.whl")), None) for name in FIRST]
    if None in files:
        sys.exit(f"clean_install: {wheels} lacks a wheel of {' or '.join(FIRST)}; run .ci/wheels.py")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        venv.create(folder / "venv", with_pip=True)
        bin_, constraints = folder / "venv" / "bin", ROOT / "constraints.txt"
        install = [str(bin_ / "pip"), "install", "--quiet", "--constraint", str(constraints)]
        Image.new("RGB", (60, 40), "orange").save(folder / "cat.png")
        for command in (
            [*install, "torch"],
            [*install, *map(str, files)],
            [str(bin_ / "pip"), "check"],
            ["vlcore", "plugins", "--check"],
            ["vlcore", "plugin", "tiny", "internvl", "--folder", "tiny"],
            find_first_question(),
        ):
            program = str(bin_ / "vlcore") if command[0] == "vlcore" else command[0]
            print("$", shlex.join(command), flush=True)
            done = subprocess.run([program, *command[1:]], cwd=folder, check=False)
            if done.returncode:
                sys.exit(done.returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist"))
