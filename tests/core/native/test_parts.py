from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from vlcore.config import LoadConfig
from vlcore.family import ModelFamily, Parts
from vlcore.lora import choose_whole, find_linear
from vlcore.native.kinds import KINDS
from vlcore.native.parts import find_parts
from vlcore.native.tiny import write_tiny
from vlcore.resolve import Checkpoint, open_checkpoint

#: What holds the pictures' features on their way into the language model, by model type.
PROJECTORS = {
    "llava": {"model.multi_modal_projector"},
    "vipllava": {"model.multi_modal_projector"},
    "llava_next": {"model.multi_modal_projector", "model.image_newline"},
    "llava_onevision": {"model.multi_modal_projector", "model.image_newline"},
    "qwen2_vl": {"model.visual.merger"},
    "qwen2_5_vl": {"model.visual.merger"},
    "qwen3_vl": {"model.visual.merger", "model.visual.deepstack_merger_list"},
    "qwen3_vl_moe": {"model.visual.merger", "model.visual.deepstack_merger_list"},
    "qwen3_5": {"model.visual.merger"},
    "qwen3_5_moe": {"model.visual.merger"},
    "internvl": {"model.multi_modal_projector"},
    "smolvlm": {"model.connector"},
    "idefics3": {"model.connector"},
    "paligemma": {"model.multi_modal_projector"},
    "gemma3": {"model.multi_modal_projector"},
    "deepseek_vl": {"model.aligner"},
    "aya_vision": {"model.multi_modal_projector"},
    "deepseek_vl_hybrid": {
        "model.aligner", "model.high_res_vision_alpha", "model.high_res_vision_neck", "model.high_res_vision_proj"},
}


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("tiny")
    write_tiny(request.param, folder)
    config = json.loads((folder / "config.json").read_text())
    owner = next(plugin.name for plugin in registry().plugins if plugin.distribution == "vlcore")
    return Checkpoint(folder, config, ModelFamily(name="toy", native=(request.param,)), None, owner)


def registry() -> Any:
    from vlcore.plugins import get_registry

    return get_registry()


def test_parts_hold_every_parameter_once_and_only_the_projector_joins_them(checkpoint: Checkpoint) -> None:
    parts, model = checkpoint.parts, checkpoint.call("load_model", config=LoadConfig(device_map="meta"))
    prefixes = [*parts.language, *parts.vision, *parts.projector]
    for name, _ in model.named_parameters():
        assert sum(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes) == 1, name
    assert set(parts.projector) == PROJECTORS[checkpoint.config["model_type"]]
    assert "lm_head" in parts.language


def test_parts_are_found_once_and_a_familys_own_come_first(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checkpoint.parts
    monkeypatch.setattr("vlcore.native.parts.find_parts", lambda model: pytest.fail("found again"))
    assert checkpoint.parts is found
    own = Parts(language=("a",), vision=("b",), projector=("c",))
    family = ModelFamily(name="toy", native=("llava",), parts=own)
    assert Checkpoint(Path("nowhere"), {}, family, None, "toy").parts is own


def test_default_adapters_are_on_the_attention_of_the_language_model_alone(checkpoint: Checkpoint) -> None:
    model = checkpoint.call("load_model", config=LoadConfig(device_map="meta"))
    names = find_linear(checkpoint, model, "DEFAULT")
    if not checkpoint.config["model_type"].startswith("qwen3_5"):  # which has attention of its own kind besides
        assert {name.rsplit(".", 1)[1] for name in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}
        assert len(names) == 8
    assert {checkpoint.parts.part_of(name) for name in names} == {"language"}


@pytest.mark.parametrize("model_type", ["mllama", "glm4v", "blip-2"])
def test_parts_of_types_without_a_tiny_checkpoint_are_found_too(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    parts = find_parts(model)
    assert {parts.part_of(name) for name, _ in model.named_parameters()} == {"language", "vision", "projector"}


def test_single_weights_that_cannot_be_trained_beside_adapters_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny("llava_next", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    model = checkpoint.call("load_model", config=LoadConfig(device_map="meta"))
    assert choose_whole(checkpoint, model, ["PROJECTOR"]) == ("model.multi_modal_projector",)
    assert "modules_to_save PROJECTOR leaves model.image_newline as it is" in caplog.text
    caplog.clear()
    assert choose_whole(checkpoint, model, ["HEAD"]) == ("lm_head",)
    assert not caplog.text
