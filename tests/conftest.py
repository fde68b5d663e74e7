"""Fixtures for all tests: a clean environment, and plugins without installing them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from vlcore import hookimpl, plugins
from vlcore.family import ModelFamily, ModelRecord, Parts

# Tests run beside each other: one thread each is faster than all of them on all cores. Commands inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test, and nothing is fetched from a hub."""
    for name in ("USE_HF", "VLCORE_PLUGINS", "HF_TOKEN", "MODELSCOPE_API_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@dataclass(frozen=True)
class Point:
    """An entry point that hands out an object of the test."""

    name: str
    plugin: Any
    version: str = "1.2.3"
    value: str = "toy:plugin"
    requires: tuple[str, ...] = ()

    @property
    def dist(self) -> SimpleNamespace:
        return SimpleNamespace(name=f"vlcore-{self.name}", version=self.version, requires=self.requires)

    def load(self) -> Any:
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


@pytest.fixture(name="make_point")
def point_factory() -> type[Point]:
    """Makes entry points: a name and the object it loads, or the exception it raises."""
    return Point


@pytest.fixture
def make_family() -> Callable[..., ModelFamily]:
    """Makes families that recognise their own name as `model_type`."""

    def record(model: str | ModelRecord) -> ModelRecord:
        return ModelRecord(name=model, huggingface=f"toy/{model.upper()}") if isinstance(model, str) else model

    def make(name: str = "toy", models: Iterable[str | ModelRecord] = ("toy-1b",), **more: Any) -> ModelFamily:
        settings: dict[str, Any] = {
            "recognise": lambda config, folder: config.get("model_type") == name,
            "parts": Parts(language=("language",), vision=("vision",), projector=("projector",)),
            "models": tuple(map(record, models)),
        }
        return ModelFamily(name=name, **(settings | more))

    return make


@pytest.fixture
def make_plugin() -> Callable[..., ModuleType]:
    """Makes plugins that own families and fill hooks given by name."""

    def make(*families: ModelFamily, **hooks: Callable[..., Any]) -> ModuleType:
        plugin = ModuleType("toy")
        if families:
            hooks["register_models"] = lambda: families
        for name, function in hooks.items():
            setattr(plugin, name, function if hasattr(function, "vlcore_impl") else hookimpl(function))
        return plugin

    return make


@pytest.fixture
def use_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., plugins.Registry]]:
    """Makes the core's own plugin and the given entry points the plugins of this test."""
    from vlcore import native

    def use(*points: Point) -> plugins.Registry:
        core = Point("native", native, value="vlcore.native")
        monkeypatch.setattr(plugins, "entry_points", lambda group: [*points, core])
        plugins.get_registry.cache_clear()
        return plugins.get_registry()

    yield use
    plugins.get_registry.cache_clear()


@pytest.fixture(scope="session")
def qwen_tokenizer() -> Any:
    """A small byte-level tokenizer that cuts words and knows special tokens as Qwen2's does."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(words), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=level.alphabet(), show_progress=False)
    trained.train_from_iterator(["user assistant system\n\nWhat is this? A cat. Two cats.\n"] * 3, trainer)
    specials = [AddedToken(name, special=True, normalized=False)
                for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")]
    named = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "unk_token": None}
    tokenizer = Qwen2Tokenizer(tokenizer_object=trained, **named)
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.add_tokens([AddedToken("<strips>", special=True, rstrip=True, normalized=False)])
    return tokenizer


@dataclass(frozen=True)
class Sandbox:
    """A folder, and a virtual environment over the one of the tests: what is installed there is nowhere else."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / ".venv" / "bin" / "python")

    def run(self, *words: str) -> str:
        """What a command prints: `pip install`, `vlcore` or `python`, without a network."""
        program, *rest = words
        command = {
            "vlcore": [self.python, "-m", "vlcore.cli", *rest],
            "python": [self.python, *rest],
            "pip": [sys.executable, "-m", "pip", "--python", self.python, *rest,
                    "--quiet", "--no-index", "--no-deps", "--no-build-isolation"],
        }[program]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture
def make_sandbox(tmp_path: Path) -> Callable[[], Sandbox]:
    """Makes a virtual environment that has all that this one has, in an empty folder."""

    def make() -> Sandbox:
        sandbox = Sandbox(tmp_path)
        venv.create(tmp_path / ".venv", with_pip=False, symlinks=True)
        asked = [sandbox.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        inner = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        outer = sysconfig.get_path("purelib")
        Path(inner, "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n", encoding="utf8")
        return sandbox

    return make
