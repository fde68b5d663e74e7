from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from vlcore.messages import user
from vlcore.model import load_model
from vlcore.native.tiny import write_tiny
from vlcore_deepseek_vl.family import FAMILY as ORIGINAL
from vlcore_deepseek_vl.native import FAMILY

QUESTION = "What is this?"


@pytest.mark.parametrize("model_type", FAMILY.native)
def test_ids_pixels_and_logits_are_those_of_transformers(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText
    from vlcore.native.processor import load_processor

    write_tiny(model_type, tmp_path, [QUESTION])
    picture = Image.linear_gradient("L").resize((70, 50)).convert("RGB")
    model = load_model(tmp_path, dtype="fp32", device_map="cpu")
    assert model.checkpoint.family.name == FAMILY.name
    example = model.encode([user(QUESTION, [picture])])
    processor = load_processor(tmp_path)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    theirs = processor(text=text, images=[picture], return_tensors="pt")
    assert list(example.ids) == theirs["input_ids"][0].tolist()
    assert set(example.pixels) == set(theirs) - {"input_ids", "attention_mask"}
    assert all(torch.equal(example.pixels[name], theirs[name]) for name in example.pixels)
    with torch.no_grad():
        logits = AutoModelForImageTextToText.from_pretrained(tmp_path)(**theirs).logits[0]
    torch.testing.assert_close(model.compute_logits(example)[0], logits)


def test_a_conversion_and_its_original_have_names_of_their_own() -> None:
    hub_id = "deepseek-community/deepseek-vl-7b-chat"
    assert {record.name for record in map(FAMILY.find_record, ("deepseek-vl-7b-chat-hf", hub_id)) if record} == {
        "deepseek-vl-7b-chat-hf"}
    assert ORIGINAL.find_record(hub_id) is None
    assert not {record.name for record in FAMILY.models} & {record.name for record in ORIGINAL.models}
