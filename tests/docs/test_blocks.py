"""Every code block of the README and the docs runs.

Placeholders in blocks: MODEL, TINY (a tiny checkpoint; of the page's family where the page has one),
`output/NAME/v0-DATE/checkpoint-N` (the newest checkpoint), `cat.png` and `train.jsonl` (written beside).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from PIL import Image
from vlcore.plugins import get_registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Followed by a test of its own, test_tutorial.py.
TUTORIAL = ROOT / "docs" / "plugins" / "tutorial.md"
RUN = [page for page in PAGES if page != TUTORIAL]
BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
#: Blocks that are not run: pictures of flows and trees, and data that tests/core/test_dataset_docs.py reads.
SHOWN = ("", "text", "json", "jsonl", "toml")
CHECKPOINT = "output/NAME/v0-DATE/checkpoint-N"


def read_blocks(page: Path) -> list[tuple[str, str, str]]:
    """Kind, file and text of each block; a block that names a file is written to it."""
    return BLOCK.findall(page.read_text("utf8"))


def write_scene(folder: Path, family_name: str) -> None:
    """A folder as a reader has it: a tiny model, a picture, some rows."""
    families = {family.name: family for family in get_registry().families.values()}
    family = families.get(family_name, families["internvl"])
    registry = get_registry()
    (folder / "tiny").mkdir()
    owner = registry.owner_of(family).name
    registry.call("write_tiny", owner, family=family, folder=folder / "tiny", texts=["What is this?"], seed=0)
    Image.new("RGB", (60, 40), "orange").save(folder / "cat.png")
    tag = family.tags[0]
    row = {"query": f"{tag}What is this?", "response": "A cat.", "images": ["cat.png"]}
    (folder / "train.jsonl").write_text("\n".join([json.dumps(row)] * 4), "utf8")


def newest_checkpoint(folder: Path) -> str:
    found = sorted(folder.glob("output/*/v*/checkpoint-*"), key=lambda path: path.stat().st_mtime)
    plain = [path for path in found if not path.name.endswith("-merged")]
    return str(plain[-1].relative_to(folder)) if plain else CHECKPOINT


def fill_in(text: str, folder: Path) -> str:
    text = text.replace(CHECKPOINT, newest_checkpoint(folder))
    return re.sub(r"\b(MODEL|TINY)\b", "tiny", text)


def run_command(command: str, folder: Path) -> None:
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in takewhile(re.compile(r"[A-Z_]+=").match, words))
    words = words[len(settings) :]
    if words[0] == "curl":
        done = subprocess.run([*words, "--fail-with-body", "--silent"], check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
    elif words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["pip", "install"]:
        check_install(words[2:])
    else:
        assert words[0] in ("vlcore", "python"), f"a command that no test knows to run: {command}"
        if "tests/parity" in command:
            words = [word.replace("tests/parity", str(ROOT / "tests" / "parity")) for word in words]
        words, target = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, "")
        done = subprocess.run(
            [str(Path(sys.executable).with_name(words[0])), *words[1:]], cwd=folder, input="exit\n", text=True,
            capture_output=True, timeout=300, check=False, env=os.environ | settings | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        if target:
            (folder / target).write_text(done.stdout, "utf8")


#: Where the pages say that a server listens.
SERVER = "127.0.0.1:8000"


@pytest.fixture
def serve() -> Iterator[Callable[[str, Path], str]]:
    """Starts a server that a page starts, on a free port, and tells where it listens; it ends with the page."""
    started: list[subprocess.Popen[str]] = []

    def start(command: str, folder: Path) -> str:
        words = [str(Path(sys.executable).with_name("vlcore")), *shlex.split(command)[1:], "--port", "0"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        assert process.stdout is not None
        found = re.search(r"at http://([^\s/]+)", process.stdout.readline())
        assert found, command
        return found.group(1)

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=60)


def check_install(words: list[str]) -> None:
    """What a page tells to install is what the projects of the repository are called."""
    files = [ROOT / "core" / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    projects = [tomllib.loads(path.read_text("utf8"))["project"] for path in files]
    extras = {project["name"]: project.get("optional-dependencies", {}) for project in projects}
    for word in (word for word in words if word.startswith("vlcore")):
        name, _, extra = word.rstrip("]").partition("[")
        assert name in extras and set(filter(None, extra.split(","))) <= set(extras[name]), word


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[str, Path], str]
) -> None:
    blocks = [block for block in read_blocks(page) if block[0] not in SHOWN or block[1]]
    if not blocks:
        return
    write_scene(tmp_path, page.stem)
    monkeypatch.chdir(tmp_path)
    place = SERVER
    for kind, title, text in blocks:
        text = text.replace(SERVER, place)
        if title:
            (tmp_path / title).write_text(text, "utf8")
        elif kind == "console":
            for line in text.replace("\\\n", " ").splitlines():
                if line.startswith(("$ vlcore serve", "$ vlcore web")):
                    place = serve(fill_in(line[2:], tmp_path), tmp_path)
                elif line.startswith("$ "):
                    run_command(fill_in(line[2:], tmp_path), tmp_path)
        else:
            assert kind == "python", f"a block of a kind that no test runs: {kind}"
            exec(compile(fill_in(text, tmp_path), str(page), "exec"), {})  # the pages are our own


def test_links_of_every_page_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
