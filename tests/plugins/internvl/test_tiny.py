from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image as PilImage
from vlcore.batch import collate
from vlcore.config import LoadConfig
from vlcore.messages import Image, make_message, user
from vlcore.model import build_frontend
from vlcore.resolve import Checkpoint
from vlcore_internvl.tiny import KINDS, write_tiny


@pytest.mark.parametrize("kind", KINDS)
def test_a_tiny_model_takes_a_training_step(kind: str, tiny: Callable[..., Checkpoint]) -> None:
    checkpoint = tiny(kind)
    model = checkpoint.call("load_model", config=LoadConfig(device_map="cpu"))
    frontend = build_frontend(checkpoint)
    picture = Image(PilImage.new("RGB", (150, 100)))
    messages = [user("是什么？", [picture]), make_message("assistant", "红色 🙂")]
    example = frontend.encode(messages, train=True)
    loss = model(**collate([example, example], frontend.tokenizer.pad_id)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_write_equal_files(kind: str, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_tiny(tmp_path / name, kind, seed=seed, width=32)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"model.safetensors"}


@pytest.mark.parametrize("kind", KINDS)
def test_known_texts_are_short_and_any_can_be_written(kind: str, tiny: Callable[..., Checkpoint]) -> None:
    tokenizer = tiny(kind).call("load_tokenizer")
    assert len(tokenizer.encode("What is it?")) < 8
    assert tokenizer.decode(tokenizer.encode("汉字 \U0001f642\n<tag>")) == "汉字 \U0001f642\n<tag>"
