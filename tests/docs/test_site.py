"""The site of the docs is built strictly, needs nothing from elsewhere, and says of the code what is so."""

from __future__ import annotations

import ast
import doctest
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import click
import picture
import pytest
from sitepages import PARTS, fill, hooks, options
from sitepages.docstring import read_docstring
from sitepages.errors import EXAMPLES, raise_line
from sitepages.fill import PART, fill_parts, unlink_outside
from sitepages.hooks import list_specs
from sitepages.options import list_commands
from vlcore import errors
from vlcore.cli import cli
from vlcore.errors import VlcoreError
from vlcore.plugins import get_registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCES = [*ROOT.glob("core/src/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
#: What a page loads by itself, and from where.
LOADED = re.compile(r"<(?:link|script|img|iframe|source|video)\b[^>]*?(?:href|src)=\"?([^\s\">]+)")
#: Variables that processes of a training, or of a test, are given by whoever starts them.
INNER = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "VLCORE_ERROR_FOLDER", "TQDM_DISABLE"}


def test_the_site_is_built_strictly_with_all_parts_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    settings = {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | settings)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        html = page.read_text("utf8")
        loaded = LOADED.findall(html)
        assert loaded
        assert [place for place in loaded if "//" in place] == [], page.name
        assert "in the built site" not in html, page.name
    sheets = "".join(path.read_text("utf8") for path in tmp_path.rglob("*.css"))
    assert re.findall(r"url\(\s*[\"']?https?:", sheets) == []


def test_the_parts_that_pages_leave_to_the_code_are_those_that_are_made() -> None:
    assert {name for page in DOCS.rglob("*.md") for name in PART.findall(page.read_text("utf8"))} == set(PARTS)


def test_every_option_of_every_command_is_in_its_section_or_a_table_that_it_names() -> None:
    titles = re.split(r"^###? (.*)$", PARTS["options"](), flags=re.MULTILINE)
    sections = dict(zip(titles[1::2], titles[2::2], strict=True))
    for name, command in list_commands():
        own = sections[name]
        shared = [sections[title] for title in re.findall(r"\[([\w ]+)\]\(#", own)]
        said = "".join([own, *shared])
        options = [name for param in command.params if isinstance(param, click.Option) for name in param.opts]
        assert [option for option in options if f"`{option}`" not in said] == [], name


def test_a_row_of_an_option_shows_its_names_type_limits_default_and_help() -> None:
    text = PARTS["options"]()
    for row in (
        "| `--temperature` | number, at least 0 | `none` | Sampling temperature; 0 is greedy. |",
        "| `--use_flash_attn` | true or false | `none` | ",
        "| `--on_overflow` | `error`, `drop`, `shrink`, `truncate` | `error` | ",
        "| `--batch_size`<br>`--per_device_train_batch_size` | whole number, at least 1 | `1` | ",
        "| `--lora_target_modules` | text, several | `DEFAULT` | ",
        "| `--json` | nothing | `false` | Print a JSON list. |",
        "| `--port` | whole number, at least 0, at most 65535 | `8000` | ",
    ):
        assert row in text


def test_the_page_of_options_names_every_command() -> None:
    assert {name.split()[1] for name, _ in list_commands()} == set(cli.list_commands(click.Context(cli)))


def test_every_variable_of_the_environment_is_on_the_page_of_options() -> None:
    page = (DOCS / "reference" / "options.md").read_text("utf8")
    text = "".join(path.read_text("utf8") for path in SOURCES)
    named = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", text))
    assert {"VLCORE_API_KEY", "USE_HF"} <= named
    assert [name for name in (named | {"VLCORE_PLUGINS"}) - INNER if f"`{name}`" not in page] == []


def test_every_extra_of_the_core_is_on_the_page_of_installing() -> None:
    project = tomllib.loads((ROOT / "core" / "pyproject.toml").read_text("utf8"))["project"]
    page = (DOCS / "install.md").read_text("utf8")
    assert [extra for extra in project["optional-dependencies"] if f"`{extra}`" not in page] == []


def test_every_hook_is_on_the_page_of_hooks_and_its_signature_is_python() -> None:
    text = PARTS["hooks"]()
    for name, spec in list_specs().items():
        said = read_docstring(spec)
        assert f"\n## {name}\n" in text and said.text in text
        assert said.returns and said.example, name
        assert set(said.entries) == set(spec.__code__.co_varnames[: spec.__code__.co_argcount])
    for block in re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        ast.parse(block)
    for example in re.findall(r"^Example: `(.*)`$", text, re.MULTILINE):
        ast.parse(f"def example():\n    {example}")


def test_every_registered_model_is_on_the_page_of_models() -> None:
    text = PARTS["models"]()
    models = [model for family in get_registry().families.values() for model in family.models]
    assert len(models) > 30
    for model in models:
        ids = "<br>".join(f"`{each}`" for each in model.hub_ids)
        assert re.search(rf"^\| `{re.escape(model.name)}` \| {re.escape(ids)} \| \w+ \| \S", text, re.MULTILINE)
        assert model.verified in text
    assert "| `qwen2_5_vl` |" in PARTS["native models"]()


def test_every_class_of_errors_has_an_example_that_raises_it() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VlcoreError)]
    assert set(EXAMPLES) == set(kinds) - {VlcoreError}
    for kind, example in EXAMPLES.items():
        with pytest.raises(kind) as raised:
            example.provoke_in_empty_folder()
        assert type(raised.value) is kind
        assert raise_line(example).count("; ") >= 1 and "/tmp" not in raise_line(example)


def test_classes_of_errors_of_one_module_are_on_the_page_of_errors() -> None:
    text = PARTS["errors"]()
    assert "| `vlcore.train.stop.Stopped` | `VlcoreError` | A training that was told to stop" in text
    assert "| `vlcore.budget.Overflow` | `DataError` |" in text


def test_what_the_page_of_errors_quotes_is_said_somewhere() -> None:
    rows = (DOCS / "reference" / "errors.md").read_text("utf8").split("## By symptom")[1].splitlines()
    seen = [row.split(" | ")[0] for row in rows if row.startswith("| ")]
    quoted = [text for cell in seen for text in re.findall(r"`([a-z_.][^`]*)`", cell) if not text.startswith("vlcore ")]
    assert len(quoted) > 8
    said = "".join(path.read_text("utf8") for path in SOURCES)
    assert [text for text in quoted if text not in said] == []


def test_a_part_that_nothing_makes_is_an_error() -> None:
    page = "<!-- made: nonsense -->\nread it there\n<!-- end -->\n"
    with pytest.raises(KeyError, match="nonsense"):
        fill_parts(page, PARTS)
    assert fill_parts(page, {"nonsense": lambda: "made"}) == "made\n"


def test_links_to_files_that_the_site_lacks_are_plain_text_there() -> None:
    page = "[a](../README.md), [b](data.md#sources), ![c](images/web.png)\n```text\n[d](../x)\n```\n"
    assert unlink_outside(page, DOCS, DOCS) == page.replace("[a](../README.md)", "a")


@pytest.mark.parametrize("module", [fill, hooks, options])
def test_examples_of_the_makers_hold(module: ModuleType) -> None:
    failed, tried = doctest.testmod(module)
    assert tried and not failed


def test_the_picture_is_the_one_that_its_script_draws() -> None:
    assert picture.TARGET.read_text("utf8") == picture.draw()


def test_the_hooks_of_the_picture_exist_and_none_on_the_way_is_left_out() -> None:
    drawn = {hook for _, hooks in picture.STEPS for hook in hooks}
    assert drawn == set(list_specs()) - {"register_models", "write_tiny"}
