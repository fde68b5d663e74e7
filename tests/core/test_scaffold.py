from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.errors import UsageError
from vlcore.plugins import Registry
from vlcore.scaffold import Scaffold, plan_project, write_tiny


@pytest.fixture
def registry(make_point: Any, make_plugin: Any, make_family: Any, use_plugins: Callable[..., Registry]) -> Registry:
    """A plugin `bird` with a family `owl` whose checkpoints are transformers' `llava`."""
    return use_plugins(make_point("bird", make_plugin(make_family("owl", native=("llava",)))))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("My-Model", "call it my_model"),
        ("vlcore-falcon", "call it falcon"),
        ("vlcore_falcon", "call it falcon"),
        ("7b", "as a Python module"),
        ("a__b", "single underscores"),
        ("", "as a Python module"),
        ("bird", "vlcore-bird has it already"),
        ("owl", "vlcore-bird has it already"),
        ("native", "has it already"),
        ("internvl", "vlcore-internvl has it already"),
    ],
)
def test_a_name_that_cannot_be_or_is_taken_is_refused(registry: Registry, name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        plan_project(name, "gemma3", registry)


@pytest.mark.parametrize(
    ("base", "why"),
    [
        ("llava_nxt", "did you mean llava_next"),
        ("internvl_chat", "no such model type"),
        ("bert", "no such model type"),
        ("mllama", "layers of its own"),
        ("llava", "vlcore-bird 1.2.3 owns its checkpoints"),
    ],
)
def test_a_model_type_that_cannot_be_or_is_owned_is_refused(registry: Registry, base: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        plan_project("falcon", base, registry)


def test_a_project_is_written_whole_and_nothing_is_overwritten(registry: Registry, tmp_path: Path) -> None:
    scaffold = plan_project("falcon_2", "gemma3", registry)
    folder = tmp_path / "below" / scaffold.distribution
    scaffold.write(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "pyproject.toml", "test_plugin.py", "vlcore_falcon_2.py"]
    assert 'name = "vlcore-falcon-2"' in (folder / "pyproject.toml").read_text("utf8")
    assert 'native=("gemma3",)' in (folder / "vlcore_falcon_2.py").read_text("utf8")
    (folder / "vlcore_falcon_2.py").write_text("mine", "utf8")
    with pytest.raises(UsageError, match="it exists"):
        scaffold.write(folder)
    assert (folder / "vlcore_falcon_2.py").read_text("utf8") == "mine"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_new_project_installs_and_passes_its_test(make_sandbox: Callable[[], Any]) -> None:
    sandbox = make_sandbox()
    told = sandbox.run("vlcore", "plugin", "new", "falcon", "--base", "llava")
    assert "pip install -e vlcore-falcon" in told
    sandbox.run("pip", "install", "-e", "vlcore-falcon")
    # The other checks, on the same family, are those of tests/docs/test_tutorial.py.
    checks = "tiny or load or labels or media or ids"
    assert " passed" in sandbox.run("python", "-m", "pytest", "-p", "no:cacheprovider", "vlcore-falcon", "-k", checks)


def test_a_tiny_checkpoint_is_written_whole_and_nothing_is_overwritten(registry: Registry, tmp_path: Path) -> None:
    (owl,) = registry.plugins[1].families
    write_tiny(registry.plugins[1], owl, tmp_path / "tiny")
    assert (tmp_path / "tiny" / "config.json").is_file()
    with pytest.raises(UsageError, match="it exists"):
        write_tiny(registry.plugins[1], owl, tmp_path / "tiny")


def test_a_family_without_a_tiny_checkpoint_is_refused_and_leaves_no_folder(
    make_point: Any, make_plugin: Any, make_family: Any, use_plugins: Callable[..., Registry], tmp_path: Path
) -> None:
    registry = use_plugins(make_point("bird", make_plugin(make_family("owl"))))
    with pytest.raises(UsageError, match="vlcore-bird writes no tiny checkpoint"):
        write_tiny(registry.plugins[1], registry.plugins[1].families[0], tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_every_file_of_a_project_is_in_the_list_that_is_told() -> None:
    assert list(Scaffold("falcon", "llava").list_files()) == [
        "pyproject.toml", "vlcore_falcon.py", "test_plugin.py", "README.md"]
