from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from vlcore.resolve import Checkpoint
from vlcore_deepseek_vl.tiny import write_tiny

Tiny = Callable[..., Checkpoint]


@pytest.mark.parametrize("hybrid", [False, True])
def test_equal_seeds_write_equal_files(hybrid: bool, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_tiny(tmp_path / name, seed=seed, hybrid=hybrid)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"model.safetensors"}


@pytest.mark.parametrize("hybrid", [False, True])
def test_known_texts_are_short_and_any_can_be_written(hybrid: bool, tiny: Tiny) -> None:
    tokenizer = tiny(hybrid).call("load_tokenizer")
    assert len(tokenizer.encode("What is it?")) < 8
    assert tokenizer.decode(tokenizer.encode("汉字 \U0001f642\n<tag>")) == "汉字 \U0001f642\n<tag>"


def name_kinds(names: list[str]) -> set[str]:
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names}


def test_a_tiny_hybrid_has_the_names_of_the_recorded_release(tiny: Tiny, recorded: Checkpoint) -> None:
    index = json.loads((recorded.folder / "model.safetensors.index.json").read_text(encoding="utf8"))
    with safe_open(tiny(hybrid=True).folder / "model.safetensors", "pt") as file:
        assert name_kinds(list(file.keys())) == name_kinds(list(index["weight_map"]))


def test_the_registered_tiny_checkpoint_is_the_smaller_kind(tmp_path: Path, tiny: Tiny) -> None:
    from vlcore.plugins import get_registry

    family = tiny().family
    assert get_registry().call("write_tiny", "deepseek_vl", family=family, folder=tmp_path, texts=[], seed=0)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf8"))
    assert config["vision_config"]["cls"] == "CLIPVisionTower"
