"""The tutorial is followed to the letter in a clean folder, and the examples are what it makes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "plugins" / "tutorial.md"
EXAMPLES = ("vlcore-llava", "vlcore-kestrel")
BLOCK = re.compile(r'^```(\w+)(?: title="([^",]+)(, at the end)?")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
#: Kinds of blocks that are only shown.
SHOWN = ("json", "text")


def test_a_plugin_written_by_the_tutorial_alone_works_and_passes_its_check(make_sandbox: Callable[..., Any]) -> None:
    sandbox = make_sandbox()
    Image.new("RGB", (60, 40), "orange").save(sandbox.folder / "cat.png")
    for kind, title, added, text in BLOCK.findall(PAGE.read_text("utf8")):
        if title:
            path = sandbox.folder / title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text("utf8") if added else "") + text, "utf8")
        elif kind == "console":
            for line in text.splitlines():
                sandbox.run(*shlex.split(line.removeprefix("$ ")))
        elif kind == "python":
            sandbox.run("python", "-c", text)
        else:
            assert kind in SHOWN, f"a block of a kind that no test runs: {kind}"
    for example in EXAMPLES:
        assert read_files(sandbox.folder / example) == read_files(ROOT / "examples" / example)


def read_files(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_text("utf8") for path in files if path.name != "README.md"}


def test_the_shortest_example_is_eleven_lines_of_module_and_fifteen_of_project_at_most() -> None:
    folder = ROOT / "examples" / "vlcore-llava"
    assert len((folder / "vlcore_llava.py").read_text("utf8").splitlines()) == 11
    assert len((folder / "pyproject.toml").read_text("utf8").splitlines()) <= 15
