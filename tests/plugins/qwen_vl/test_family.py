from __future__ import annotations

from pathlib import Path

import pytest
from vlcore.boxes import Box
from vlcore.family import WeightFolder
from vlcore.plugins import get_registry
from vlcore.shards import read_tensors, write_tensors
from vlcore.weights import load_pretrained, save_release
from vlcore_qwen_vl.family import FAMILY, find_weights, recognise, reject, write_box

VISUAL = {"image_start_id": 151857}


@pytest.mark.parametrize("name", ["qwen-vl-chat", "Qwen/Qwen-VL-Chat", "qwen/Qwen-VL-Chat", "Qwen-VL-Chat"])
def test_the_chat_model_is_found_by_name_hub_id_and_folder(name: str) -> None:
    found = FAMILY.find_record(name)
    assert found is not None and found.name == "qwen-vl-chat"


def test_base_chat_and_int4_are_registered_by_the_plugin() -> None:
    assert [model.name for model in FAMILY.models] == ["qwen-vl", "qwen-vl-chat", "qwen-vl-chat-int4"]
    assert get_registry().owner_of(FAMILY).distribution == "vlcore-qwen-vl"


def test_only_a_qwen_that_sees_is_recognised() -> None:
    assert recognise({"model_type": "qwen", "visual": VISUAL}, Path())
    assert not recognise({"model_type": "qwen"}, Path())
    assert not recognise({"model_type": "qwen", "audio": {}}, Path())
    assert not recognise({"model_type": "qwen2_vl", "visual": VISUAL}, Path())


def test_look_alikes_are_rejected_with_a_reason_and_strangers_without() -> None:
    assert "not Qwen-VL" in str(reject({"model_type": "qwen"}, Path()))
    assert reject({"model_type": "llava"}, Path()) is None


def test_boxes_are_written_in_thousandths_below_a_thousand_and_read_again() -> None:
    box = Box(((0.302, 0.257), (0.582, 1.0)))
    assert write_box(box) == "<box>(302,257),(582,999)</box>"
    quad = Box(((0.0, 0.1), (0.2, 0.3), (0.4, 0.5), (-0.1, 0.7)))
    assert write_box(quad) == "<quad>(0,100),(200,300),(400,500),(0,700)</quad>"
    assert FAMILY.grounding is not None
    text = FAMILY.grounding.write_label("a cup") + write_box(box)
    assert FAMILY.grounding.read(text) == (Box(((0.302, 0.257), (0.582, 0.999)), "a cup"),)


def test_buffers_of_old_dumps_are_left_aside_and_saved_again(tiny, tmp_path: Path) -> None:
    import torch
    from vlcore.config import LoadConfig
    from vlcore.resolve import open_checkpoint
    from vlcore_qwen_vl.modeling import QwenVLForConditionalGeneration
    from vlcore_qwen_vl.release import native_config

    source, old, saved = tiny(), tmp_path / "old", tmp_path / "saved"
    assert find_weights(source.config, source.folder) == (WeightFolder(path=source.folder),)
    for folder in (old, saved):
        folder.mkdir()
    for path in source.folder.iterdir():
        (old / path.name).write_bytes(path.read_bytes())
    names = ("transformer.h.0.attn.rotary_emb.inv_freq", "transformer.h.0.attn.masked_bias")
    buffers = {name: torch.ones(4) for name in names}
    write_tensors(old / "pytorch_model.bin", read_tensors(old / "pytorch_model.bin") | buffers)
    checkpoint = open_checkpoint(old)
    config = LoadConfig(model=str(old), device_map="cpu", dtype="fp32")
    model = load_pretrained(QwenVLForConditionalGeneration, native_config(checkpoint), checkpoint, config)
    save_release(checkpoint, model, saved)
    before, after = read_tensors(old / "pytorch_model.bin"), read_tensors(saved / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
