from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from vlcore.model import build_frontend
from vlcore.plugins import get_registry
from vlcore.resolve import open_checkpoint
from vlcore_qwen_vl.family import FAMILY
from vlcore_qwen_vl.tiny import write_tiny

NAMES = {"config.json", "generation_config.json", "pytorch_model.bin", "qwen.tiktoken", "tokenizer_config.json"}


@pytest.mark.parametrize("kind", ["chat", "base"])
def test_a_tiny_release_has_the_releases_files_and_is_recognised(tiny, kind: str) -> None:
    checkpoint = tiny(kind)
    assert {path.name for path in checkpoint.folder.iterdir()} == NAMES
    assert checkpoint.family is FAMILY


def test_the_tokenizer_spells_anything_and_given_texts_in_few_tokens(tmp_path: Path) -> None:
    write_tiny(tmp_path, texts=["a giraffe in the snow"], layers=1)
    tokenizer = build_frontend(open_checkpoint(tmp_path)).tokenizer
    assert len(tokenizer.encode("a giraffe in the snow")) <= 5
    odd = "".join(map(chr, range(1, 0x250))) + "猫🐈"
    assert tokenizer.decode(tokenizer.encode(odd)) == unicodedata.normalize("NFC", odd)


def test_the_plugin_writes_one_for_demos(tmp_path: Path) -> None:
    owner = get_registry().owner_of(FAMILY).name
    assert get_registry().call("write_tiny", owner, family=FAMILY, folder=tmp_path, texts=["What?"], seed=1)
    assert open_checkpoint(tmp_path).family is FAMILY
