from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from vlcore.boxes import Box
from vlcore.config import LoadConfig
from vlcore.messages import user
from vlcore.model import load_model
from vlcore.native.tiny import write_tiny
from vlcore.plugins import get_registry
from vlcore.resolve import resolve_model
from vlcore_qwen_vl.native import FAMILIES, read_json_boxes, write_json_box

TYPES = [model_type for family in FAMILIES for model_type in family.native]
QUESTION = "What is this?"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    wave = Image.linear_gradient("L").resize((70, 50))
    return Image.merge("RGB", (wave, wave.rotate(180), Image.radial_gradient("L").resize((70, 50))))


@pytest.mark.parametrize("model_type", TYPES)
def test_ids_pixels_and_logits_are_those_of_transformers(model_type: str, picture: Image.Image, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText
    from vlcore.native.processor import load_processor

    write_tiny(model_type, tmp_path, [QUESTION])
    model = load_model(tmp_path, dtype="fp32", device_map="cpu")
    assert model_type in model.checkpoint.family.native and model.checkpoint.owner == "qwen_vl_native"
    example = model.encode([user(QUESTION, [picture])])
    processor = load_processor(tmp_path)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    theirs = processor(text=text, images=[picture], return_tensors="pt")
    assert list(example.ids) == theirs["input_ids"][0].tolist()
    for name in ("pixel_values", "image_grid_thw"):
        assert torch.equal(example.pixels[name], theirs[name])
    with torch.no_grad():
        logits = AutoModelForImageTextToText.from_pretrained(tmp_path)(**theirs).logits[0]
    torch.testing.assert_close(model.compute_logits(example)[0], logits)


def test_fewer_pixels_take_fewer_tokens(picture: Image.Image, tmp_path: Path) -> None:
    write_tiny("qwen3_vl", tmp_path)
    model = load_model(tmp_path, dtype="fp32", device_map="cpu")
    messages = [user(QUESTION, [picture])]
    assert len(model.encode(messages, max_pixels=32 * 32)) < len(model.encode(messages))


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("qwen2-vl-2b-instruct", "Qwen/Qwen2-VL-2B-Instruct"),
        ("qvq-72b-preview", "Qwen/QVQ-72B-Preview"),
        ("qwen2_5-vl-7b-instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
        ("Qwen2.5-VL-72B-Instruct", "Qwen/Qwen2.5-VL-72B-Instruct"),
        ("qwen3-vl-4b-thinking", "Qwen/Qwen3-VL-4B-Thinking"),
        ("Qwen/Qwen3-VL-235B-A22B-Instruct", "Qwen/Qwen3-VL-235B-A22B-Instruct"),
    ],
)
def test_a_model_is_found_by_name_hub_id_and_folder(name: str, hub_id: str) -> None:
    found = [record for family in FAMILIES if (record := family.find_record(name))]
    assert [record.huggingface for record in found] == [hub_id]


def test_first_and_later_generations_come_with_one_distribution() -> None:
    registry = get_registry()
    assert {registry.owner_of(family).distribution for family in FAMILIES} == {"vlcore-qwen-vl"}
    assert sum(len(family.models) for family in FAMILIES) == 23


def test_a_folder_named_like_a_release_is_that_model(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2-VL-7B-Instruct"
    folder.mkdir()
    write_tiny("qwen2_vl", folder)
    assert resolve_model(LoadConfig(model=str(folder))).name == "qwen2-vl-7b-instruct"


def test_boxes_in_json_are_read_and_written_in_thousandths() -> None:
    text = 'Here:\n```json\n[{"bbox_2d": [1, 20, 300, 1000], "label": "a \\"cup\\""}, {"point_2d": [1, 2]},\n'
    assert read_json_boxes(text + '{"bbox_2d": [1, 2, 3]}, {"bbox_2d": [true, 2, 3, 4]}, {"bbox_2d": [5, 6') == (
        Box(((0.001, 0.02), (0.3, 1.0)), 'a "cup"'),)
    assert write_json_box(Box(((0.302, 0.257), (0.582, 1.2)))) == "[302, 257, 582, 1000]"
    assert write_json_box(Box(((0.2, 0.3), (0.4, 0.1), (0.3, 0.5), (-1.0, 0.2)))) == "[0, 100, 400, 500]"
