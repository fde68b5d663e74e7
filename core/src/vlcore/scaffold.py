"""A new plugin: an installable project that works and passes its own check at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from importlib_metadata import PackageNotFoundError, distribution, version

from vlcore.checkpoint import new_folder
from vlcore.errors import UsageError, suggest_near
from vlcore.family import ModelFamily
from vlcore.plugins import LIMIT, Plugin, Registry, get_registry

#: What a plugin may be called: it becomes part of a module's, a distribution's and a family's name.
NAME = re.compile(r"(?!vlcore(_|$))[a-z][a-z0-9]*(_[a-z0-9]+)*")

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "0.1.0"
description = "Models of transformers' type {base}, for vlcore."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["vlcore>={core}"]

[project.entry-points.vlcore]
{name} = "{module}"
"""
MODULE = '''\
"""Models of transformers' type {base}, for vlcore."""

from collections.abc import Iterable

import vlcore
from vlcore.family import ModelFamily, ModelRecord

#: The released models, so that users may name them: ModelRecord(name="{name}-7b", huggingface="owner/{name}-7b").
MODELS: tuple[ModelRecord, ...] = ()


@vlcore.hookimpl
def register_models() -> Iterable[ModelFamily]:
    """The family. What no other hook of this module says, the core's defaults do."""
    return [ModelFamily(name="{name}", native=("{base}",), models=MODELS)]
'''
TEST = '''\
"""The plugin does what every family must."""

pytest_plugins = ["vlcore.testing.pytest"]
vlcore_plugin = "{distribution}"


def test_conformance(vlcore_check):
    vlcore_check()
'''
README = """\
# {distribution}

Models of transformers' type `{base}`, for vlcore.

```console
$ pip install -e .
$ vlcore plugin check {name}
$ vlcore infer --model FOLDER --image_file cat.png --question "What is this?"
```

`{module}.py` is the whole plugin. Each hook it fills replaces a default of the core; the page "Write a plugin" of the
documentation of vlcore goes through them one by one.
"""


@dataclass(frozen=True, slots=True)
class Scaffold:
    """A project to write.

    Attributes:
        name: of the plugin and of its family.
        base: transformers' model type whose checkpoints it takes.
    """

    name: str
    base: str

    @property
    def module(self) -> str:
        """Name of the plugin's module."""
        return f"vlcore_{self.name}"

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return self.module.replace("_", "-")

    def list_files(self) -> dict[str, str]:
        """The project's files by their paths."""
        words = {"name": self.name, "base": self.base, "module": self.module, "distribution": self.distribution}
        texts = {"pyproject.toml": PYPROJECT, f"{self.module}.py": MODULE, "test_plugin.py": TEST, "README.md": README}
        return {path: text.format(core=version("vlcore"), **words) for path, text in texts.items()}

    def write(self, folder: Path) -> None:
        """Writes the project; the folder is there when all of it is.

        Raises:
            UsageError: when something of that name exists.
        """
        refuse_existing(folder)
        with new_folder(folder) as part:
            for path, text in self.list_files().items():
                (part / path).write_text(text, encoding="utf8")


def refuse_existing(folder: Path) -> None:
    """Refuses a folder that is there already, so that nothing is overwritten."""
    if folder.exists():
        raise UsageError(f"folder {folder}", "it exists", "give another one with --folder")


def plan_project(name: str, base: str, registry: Registry) -> Scaffold:
    """The project of a new plugin, when nothing stands in its way.

    Args:
        name: what the plugin shall be called.
        base: a model type that transformers has for pictures and text.
        registry: what is installed already.

    Raises:
        UsageError: for a name that cannot be or is taken, a model type that transformers does not have, or one
            that a plugin takes already.
    """
    scaffold = Scaffold(name, base)
    check_name(scaffold, registry)
    check_base(base, registry)
    return scaffold


def check_name(scaffold: Scaffold, registry: Registry) -> None:
    """Refuses a name that is none, or that something installed has."""
    name = scaffold.name
    if not NAME.fullmatch(name):
        word = re.sub(r"[^a-z0-9]+", "_", name.lower()).removeprefix("vlcore_").strip("_")
        do = f"call it {word}" if NAME.fullmatch(word) else "call it as a Python module, for instance my_model"
        raise UsageError(f"name {name}", "a plugin's name has small letters, digits and single underscores", do)
    owner = next((p.distribution for p in registry.plugins
                  if name == p.name or name in (family.name for family in p.families)), "")
    if not owner and find_spec(scaffold.module):
        owner = find_distribution(scaffold.distribution) or f"a module {scaffold.module}"
    if owner:
        raise UsageError(f"name {name}", f"{owner} has it already", "choose another one")


def find_distribution(name: str) -> str:
    """A distribution's name when it is installed, else nothing."""
    try:
        return str(distribution(name).name)
    except PackageNotFoundError:
        return ""


def check_base(base: str, registry: Registry) -> None:
    """Refuses a model type that transformers does not have, or whose checkpoints a plugin owns."""
    from vlcore.native.family import UNFIT, list_types

    types = list_types() - UNFIT.keys()
    if base in UNFIT:
        raise UsageError(f"base {base}", UNFIT[base], "fill the hooks by hand, or take another base")
    if base not in types:
        why = "transformers has no such model type for pictures and text"
        raise UsageError(f"base {base}", why, suggest_near(base, types))
    for plugin in registry.plugins:
        if any(base in family.native for family in plugin.families):
            why = f"{plugin.distribution} {plugin.version} owns its checkpoints, and a checkpoint has one owner"
            do = f"add your models there, or leave it out with {LIMIT}"
            raise UsageError(f"base {base}", why, do)


def write_tiny(plugin: Plugin, family: ModelFamily, folder: Path, seed: int = 0) -> None:
    """Writes a tiny random checkpoint of a family; the folder is there when all of it is.

    Raises:
        UsageError: when something of that name exists, or the plugin writes none.
    """
    refuse_existing(folder)
    with new_folder(folder) as part:
        if not get_registry().call("write_tiny", plugin.name, family=family, folder=part, texts=(), seed=seed):
            why = f"{plugin.distribution} writes no tiny checkpoint of it"
            raise UsageError(f"family {family.name}", why, "fill the hook write_tiny")
