"""What the command line imports before it does anything."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import vlcore
from vlcore.cli import COMMANDS, data, parity, plugin

#: Packages outside the standard library that may be imported before a command runs.
LIGHT = {"vlcore", "click", "pluggy", "importlib_metadata", "lazy_importer", "packaging", "zipp", "typing_extensions"}
PROBE = """
import sys
before = set(sys.modules)
{code}
import json
print("\\n" + json.dumps(sorted({{name.split(".")[0] for name in set(sys.modules) - before}})))
"""
HELP = "from vlcore.cli import cli; cli.main({arguments}, standalone_mode=False)"


def list_imports(code: str) -> set[str]:
    command = [sys.executable, "-c", PROBE.format(code=code)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(json.loads(output.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    ["import vlcore", "import vlcore.errors, vlcore.family, vlcore.messages, vlcore.config, vlcore.native"]
    + [HELP.format(arguments=[*command, "--help"]) for command in
       ([], *([name] for name in COMMANDS), *(["data", name] for name in data.COMMANDS),
        *(["plugin", name] for name in plugin.COMMANDS), *(["parity", name] for name in parity.COMMANDS))],
)
def test_nothing_heavy_is_imported(code):
    imported = list_imports(code)
    assert "vlcore" in imported
    assert imported - sys.stdlib_module_names - LIGHT == set()


@pytest.mark.parametrize("command", [["models"], ["plugins"], ["plugins", "--check"]])
def test_listing_plugins_imports_them_and_nothing_heavy(command):
    extra = list_imports(HELP.format(arguments=command)) - sys.stdlib_module_names - LIGHT
    assert {name for name in extra if not name.startswith("vlcore_")} == set()


def test_public_names_and_lazy_names_and_typed_names_agree():
    source = ast.parse(Path(vlcore.__file__).read_text(encoding="utf8"))
    (block,) = [node for node in source.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in ast.walk(block) if isinstance(node, ast.ImportFrom)
             for alias in node.names}
    assert typed == vlcore._LAZY
    assert sorted({*typed, "hookimpl"}) == vlcore.__all__


@pytest.mark.parametrize("name", vlcore.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vlcore, name) is not None


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="load_modle"):
        vlcore.load_modle  # noqa: B018
