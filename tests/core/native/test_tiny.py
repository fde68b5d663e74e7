from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from vlcore.errors import UsageError
from vlcore.family import ModelFamily
from vlcore.native import write_tiny as hook
from vlcore.native.kinds import KINDS
from vlcore.native.tiny import write_tiny

TEXTS = ["Which colour has the square? It is red."]
#: Beginnings of tensor names in published checkpoints, older than the names in today's models.
PUBLISHED = {
    "llava": ("language_model.model.layers.0.", "vision_tower.vision_model.encoder.", "multi_modal_projector."),
    "qwen2_vl": ("model.layers.0.", "visual.blocks.0.", "visual.merger.", "lm_head."),
    "gemma3": ("language_model.model.embed_tokens.", "vision_tower.vision_model.embeddings."),
    "idefics3": ("model.text_model.layers.0.", "model.vision_model.encoder.", "model.connector."),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tiny") / request.param
    folder.mkdir()
    write_tiny(request.param, folder, TEXTS)
    return folder


def test_transformers_loads_every_tensor_of_a_small_model(folder: Path) -> None:
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert model.config.model_type == folder.name
    assert sum(parameter.numel() for parameter in model.parameters()) < 250_000


def test_names_of_tensors_are_the_published_ones(folder: Path) -> None:
    names = list(load_file(folder / "model.safetensors"))
    for start in PUBLISHED.get(folder.name, ()):
        assert any(name.startswith(start) for name in names), start


def test_the_tokenizer_spells_the_texts_in_few_tokens_and_everything_else_in_some(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(TEXTS[0], add_special_tokens=False)
    assert len(ids) < len(TEXTS[0]) / 2
    assert tokenizer.decode(tokenizer.encode("Grüße, 世界", add_special_tokens=False)) == "Grüße, 世界"


def test_an_answer_continues_the_prompt_it_was_asked_with(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXTS[0]}]}
    answered = {"role": "assistant", "content": [{"type": "text", "text": "Red."}]}
    prompt = tokenizer.apply_chat_template([asked], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([asked, answered], tokenize=False)
    assert whole.startswith(prompt)
    assert "Red." in whole.removeprefix(prompt)


def test_pictures_stay_small(folder: Path) -> None:
    from PIL import Image

    pictures = AutoImageProcessor.from_pretrained(folder, backend="pil")
    pixels = pictures([Image.new("RGB", (90, 50))], return_tensors="pt")["pixel_values"]
    assert pixels.numel() <= 5 * 3 * 64 * 64


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_tiny("llava", tmp_path / name, TEXTS, seed)
    files = [{p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "abc"]
    assert files[0] == files[1]
    assert {name for name in files[0] if files[0][name] != files[2][name]} == {"model.safetensors"}


def test_writing_moves_no_random_numbers_of_the_caller(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    write_tiny("llava", tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_an_unknown_model_type_brings_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a tiny checkpoint of llava_nexd: .*write_tiny.*llava_next"):
        write_tiny("llava_nexd", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_hook_writes_the_first_native_type_of_a_family_and_nothing_for_others(tmp_path: Path) -> None:
    family = ModelFamily(name="toy", native=("qwen3_vl", "qwen2_vl"))
    assert hook(family, tmp_path, TEXTS, 0) is True
    assert '"model_type": "qwen3_vl"' in (tmp_path / "config.json").read_text()
    other = ModelFamily(name="toy", recognise=lambda config, folder: True)
    assert hook(other, tmp_path, TEXTS, 0) is None
