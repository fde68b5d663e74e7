#!/usr/bin/env python3
"""What leans on other libraries, with the oldest and the newest versions of them that the projects allow.

    .ci/matrix.py [--keep FOLDER] [oldest | newest]...

Each leg gets an environment of its own: `oldest` takes every library at its lower bound (or at the oldest that the
others go with), `newest` at what the index has today. torch is the one of constraints.txt in both. Not part of
`.ci/run`: about five minutes a leg on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = [ROOT / "core", *sorted((ROOT / "plugins").iterdir())]
#: Extras of the core that the tests below need.
EXTRAS = ("datasets", "metrics", "qlora", "smolvlm")
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "hatchling", "editables")
#: What loads, computes and trains; single modules of tests/core besides.
FOLDERS = ("tests/parity", "tests/plugins", "tests/core/export", "tests/core/native", "tests/core/train")
MODULES = ("generate", "lora", "model", "packing", "prefix", "talk", "weights")


def read_requirements() -> list[str]:
    """What the projects require of others, extras included."""
    tables = [tomllib.loads((project / "pyproject.toml").read_text("utf8"))["project"] for project in PROJECTS]
    lines = [line for table in tables for line in table["dependencies"]]
    lines += [line for name in EXTRAS for line in tables[0]["optional-dependencies"][name]]
    return [line for line in lines if not line.startswith("vlcore")]


def write_constraints(leg: str, folder: Path) -> Path:
    """The versions of a leg, found by uv, which knows how to look for the oldest."""
    pinned = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    torch = next(line for line in pinned if line.startswith("torch=="))
    wanted, found = folder / f"{leg}.in", folder / f"{leg}.txt"
    wanted.write_text("\n".join([*read_requirements(), torch]), "utf8")
    resolution = "lowest-direct" if leg == "oldest" else "highest"
    command = [str(folder / leg / "bin" / "uv"), "pip", "compile", "--quiet", "--system-certs", "--no-header"]
    subprocess.run([*command, "--no-annotate", "--resolution", resolution, wanted, "--output-file", found], check=True)
    # An index names torch for one device; its own libraries come with the torch that is installed.
    own = ("nvidia", "triton", "cuda")
    versions = [line for line in found.read_text("utf8").splitlines() if not line.startswith(own)]
    found.write_text("\n".join(versions), "utf8")
    return found


def run_leg(leg: str, folder: Path) -> bool:
    """Installs a leg, shows what it got, runs the tests; whether all passed."""
    venv.create(folder / leg, with_pip=True)
    pip = [str(folder / leg / "bin" / "pip"), "install", "--quiet"]
    subprocess.run([*pip, "uv"], check=True)
    constraints = write_constraints(leg, folder)
    core, *plugins = map(str, PROJECTS)
    editable = [word for name in (f"{core}[{','.join(EXTRAS)}]", *plugins) for word in ("--editable", name)]
    subprocess.run([*pip, "--constraint", constraints, "torch"], check=True)
    subprocess.run([*pip, "--constraint", constraints, *editable, *TOOLS], check=True)
    subprocess.run([pip[0], "freeze", "--exclude-editable"], check=True)
    tests = [*FOLDERS, *(f"tests/core/test_{name}.py" for name in MODULES)]
    # Old libraries are told by newer ones that they use what is deprecated; that is no fault of this repository.
    tests += ["--override-ini", "filterwarnings=default"] if leg == "oldest" else []
    command = [str(folder / leg / "bin" / "python"), "-m", "pytest", "-q", "--numprocesses", "auto"]
    return subprocess.run([*command, "-p", "no:cacheprovider", *tests], cwd=ROOT, check=False).returncode == 0


def main() -> None:
    """The command line; exit code 1 when a leg failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("legs", nargs="*", help="oldest, newest; both when left out")
    parser.add_argument("--keep", type=Path, help="where the environments go and stay")
    given = parser.parse_args()
    legs = given.legs or ["oldest", "newest"]
    if set(legs) - {"oldest", "newest"}:
        parser.error(f"legs are oldest and newest, not {' '.join(legs)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        passed = {leg: run_leg(leg, folder) for leg in legs}
    print("; ".join(f"{leg} {'passed' if good else 'failed'}" for leg, good in passed.items()))
    sys.exit(not all(passed.values()))


if __name__ == "__main__":
    main()
