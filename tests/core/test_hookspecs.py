"""The contract with plugins, held against what earlier versions of it promised."""

import inspect
import json
from pathlib import Path

import pytest
from vlcore import hookspecs
from vlcore.hookspecs import VERSION, deprecate

#: Version of the hooks -> hook -> its arguments. A published entry is never changed.
PROMISED = json.loads(Path(__file__).with_name("hooks.json").read_text("utf8"))


def list_hooks() -> dict[str, list[str]]:
    return {name: list(inspect.signature(value).parameters) for name, value in vars(hookspecs).items()
            if hasattr(value, "vlcore_spec")}


def major(version: str) -> int:
    return int(version.split(".")[0])


def test_hooks_are_those_of_their_version():
    """A hook or argument that is new raises the second number, and hooks.json gets an entry of that version."""
    assert list_hooks() == PROMISED[VERSION]


@pytest.mark.parametrize("version", [version for version in PROMISED if major(version) == major(VERSION)])
def test_hooks_keep_what_versions_of_the_same_first_number_promised(version):
    hooks = list_hooks()
    gone = {f"{hook}({name})" for hook, names in PROMISED[version].items() for name in names
            if name not in hooks.get(hook, [])}
    assert not gone and set(PROMISED[version]) <= set(hooks)


def test_every_hook_has_a_page_of_its_own_in_words():
    assert [name for name in list_hooks() if "Example:" not in (getattr(hookspecs, name).__doc__ or "")] == []


def test_what_is_deprecated_stays_until_the_first_number_rises():
    with pytest.raises(ValueError, match="cannot be gone in hooks 1.4"):
        deprecate("hook merge", "1.3", "1.4", "nothing")
