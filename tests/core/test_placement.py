from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, LlavaConfig, LlavaForConditionalGeneration
from vlcore.config import LoadConfig
from vlcore.errors import UsageError
from vlcore.family import Parts
from vlcore.media import Plan
from vlcore.placement import (
    count_positions,
    list_block_classes,
    measure_modules,
    measure_pictures,
    place_model,
    read_device_map,
    read_limits,
)

PARTS = Parts(
    language=("model.language_model", "lm_head"), vision=("model.vision_tower",),
    projector=("model.multi_modal_projector",))
#: An 8B language model behind a vision tower of 300 million parameters.
TEXT = {"model_type": "qwen2", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 92553}


@pytest.fixture(scope="module")
def skeleton() -> InternVLForConditionalGeneration:
    with torch.device("meta"):
        return InternVLForConditionalGeneration(InternVLConfig(text_config=TEXT))


def place(skeleton: InternVLForConditionalGeneration, *sizes: str, bits: int = 0) -> dict[str, object]:
    config = LoadConfig(device_max_memory=sizes, quantization_bit=bits)
    placement = place_model(skeleton, PARTS, config, torch.bfloat16)
    for share in placement.shares:
        assert share.weights + share.reserved <= share.limit
    return dict(placement.device_map)


def find_device(found: dict[str, object], name: str) -> object:
    return next(device for module, device in found.items() if name == module or name.startswith(module + "."))


@pytest.mark.parametrize("sizes", [("24GB", "24GB"), ("15GB",) * 4, ("9GB", "24GB"), ("10GB", "8GB", "8GB")])
def test_every_weight_has_one_device_and_no_block_is_split(
    skeleton: InternVLForConditionalGeneration, sizes: tuple[str, ...]
) -> None:
    found = place(skeleton, *sizes)
    devices = {name: find_device(found, name) for name, _ in skeleton.named_parameters()}
    assert set(devices.values()) == set(range(len(sizes)))
    blocks = list_block_classes(skeleton)
    for name, module in skeleton.named_modules():
        if type(module).__name__ in blocks:
            assert len({device for key, device in devices.items() if key.startswith(name + ".")}) == 1


def test_the_device_with_the_vision_tower_gets_fewer_layers(skeleton: InternVLForConditionalGeneration) -> None:
    placement = place_model(
        skeleton, PARTS, LoadConfig(device_max_memory=("15GB",) * 4), torch.bfloat16)
    first, second, *_ = placement.shares
    assert first.reserved == measure_pictures(skeleton, PARTS, torch.bfloat16) > 500_000_000
    assert first.weights < second.weights
    assert abs(first.weights + first.reserved - second.weights) < 1_500_000_000
    assert find_device(placement.device_map, "model.vision_tower.encoder.layer.0.attention.q_proj.weight") == 0
    table = placement.describe()
    assert len(table) == 5
    assert "for pictures" in table[0]


def test_devices_that_are_too_small_are_refused(skeleton: InternVLForConditionalGeneration) -> None:
    with pytest.raises(UsageError, match=r"2 devices of 10\.0 GB: the model takes 1.*GB"):
        place(skeleton, "5GB", "5GB")


def test_weights_of_4_bits_fit_where_16_do_not(skeleton: InternVLForConditionalGeneration) -> None:
    assert measure_modules(skeleton, torch.bfloat16, 4)[""] * 3 < measure_modules(skeleton, torch.bfloat16, 0)[""]
    assert set(place(skeleton, "5GB", "5GB", bits=4).values()) == {0, 1}


def test_another_family_is_placed_by_the_same_rules() -> None:
    text = {**TEXT, "model_type": "llama", "num_hidden_layers": 8}
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(LlavaConfig(text_config=text))
    found = place_model(llava, PARTS, LoadConfig(device_max_memory=("6GB", "6GB")), torch.bfloat16).device_map
    assert {find_device(found, name) for name, _ in llava.named_parameters()} == {0, 1}


@pytest.mark.parametrize("size", ["15", "big", "15GX"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(UsageError, match=f"device_max_memory {size}"):
        read_limits([size])


def test_a_file_may_name_the_device_of_each_module(
    skeleton: InternVLForConditionalGeneration, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"model": 0, "lm_head": 1}))
    assert read_device_map(str(path), skeleton) == {"model": 0, "lm_head": 1}


@pytest.mark.parametrize(
    ("read", "said"),
    [
        ({"model.vision_towr": 0}, "did you mean model.vision_tower"),
        ({"model.language_model": 0}, r"model\.vision_tower\.\S+ has no device"),
        ({"model": "gpu", "lm_head": 0}, "'gpu' is no device"),
        ([1], "it is not an object"),
    ],
)
def test_a_file_that_places_nothing_sound_is_refused(
    read: object, said: str, skeleton: InternVLForConditionalGeneration, tmp_path: Path
) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps(read))
    with pytest.raises(UsageError, match=said):
        read_device_map(str(path), skeleton)


def test_towers_of_any_size_are_counted_by_what_becomes_of_their_patches() -> None:
    plans = [Plan(tokens=6, tiles=(1,)), Plan(tokens=4, tiles=(1,))]
    merging: Any = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2)))
    assert count_positions(merging, plans) == 4 * 10
    tiles: Any = SimpleNamespace(config=SimpleNamespace(
        vision_config=SimpleNamespace(image_size=28, patch_size=14, hidden_size=8)))
    assert count_positions(tiles, plans[1:]) == 2 * 2 + 1
    assert count_positions(tiles, []) == 0
