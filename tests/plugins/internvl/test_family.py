from __future__ import annotations

import re
from pathlib import Path

import pytest
from vlcore_internvl.family import FAMILY, is_first_generation, read_boxes, recognise, reject

NAMES = [
    *("internvl-chat-v1_5", "internvl-chat-v1_5-int8", "internvl-chat-v1_2", "internvl-chat-v1_2-plus"),
    *("mini-internvl-chat-2b-v1_5", "mini-internvl-chat-4b-v1_5"),
    *(f"internvl2-{size}" for size in ("1b", "2b", "4b", "8b", "8b-mpo", "26b", "40b", "llama3-76b")),
    *(f"internvl2_5-{size}{stage}" for size in ("1b", "2b", "4b", "8b", "26b", "38b", "78b") for stage in ("", "-mpo")),
    *(
        f"internvl3-{size}{stage}"
        for size in ("1b", "2b", "8b", "9b", "14b", "38b", "78b")
        for stage in ("", "-pretrained", "-instruct")
    ),
    *(
        f"internvl3_5-{size}{stage}"
        for size in ("1b", "2b", "4b", "8b", "14b", "38b", "30b-a3b", "241b-a28b")
        for stage in ("", "-pretrained", "-instruct", "-mpo")
    ),
    "internvl3_5-gpt-oss-20b-a4b-preview",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_to_its_name_and_to_its_hub_ids(name: str) -> None:
    record = FAMILY.find_record(name)
    assert record is not None and record.name == name
    assert all(FAMILY.find_record(hub_id) is record for hub_id in record.hub_ids)


def test_no_released_model_is_left_out() -> None:
    assert sorted(NAMES) == sorted(model.name for model in FAMILY.models)


def test_models_that_could_not_be_held_against_their_releases_say_so() -> None:
    unheld = {model.name for model in FAMILY.models if "not compared with the release" in model.verified}
    members = {name for name in NAMES if name.startswith("internvl3-9b") or re.search("-a[0-9]+b", name)}
    assert unheld == {"internvl-chat-v1_5-int8", *members}


def test_only_the_first_generation_keeps_one_picture_for_a_talk() -> None:
    asking = {model.name for model in FAMILY.models if model.ask == "conversation"}
    assert asking == {model.name for model in FAMILY.models if is_first_generation(model)}
    assert not is_first_generation(None)


@pytest.mark.parametrize("architecture", ["InternLM2ForCausalLM", "InternLM3ForCausalLM", "Qwen3MoeForCausalLM"])
def test_a_checkpoint_is_recognised_by_its_language_model(architecture: str) -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"architectures": [architecture]}}
    assert recognise(config, Path()) and reject(config, Path()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"llm_config": {"architectures": ["MambaForCausalLM"]}}, "its language model is MambaForCausalLM; known are"),
        ({"llm_config": {}}, "its language model is not named"),
        ({"flash_mode": "on"}, "it is a Flash model"),
        ({"quantization_config": {"quant_method": "awq"}}, "its weights are quantized by awq"),
    ],
)
def test_look_alikes_are_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"architectures": ["Qwen3ForCausalLM"]}} | changes
    assert not recognise(config, Path())
    assert reason in str(reject(config, Path()))


def test_other_model_types_are_left_alone() -> None:
    config = {"model_type": "internvl", "llm_config": {"architectures": ["Qwen2ForCausalLM"]}}
    assert not recognise(config, Path()) and reject(config, Path()) is None


@pytest.mark.parametrize("text", ["<ref>cat</ref><box>[[100, 200, 300, 400]]</box>", "cat[[100,200, 300.0, 400]]"])
def test_boxes_are_read_with_and_without_the_marks_that_decoding_leaves_out(text: str) -> None:
    assert [box.points for box in read_boxes(text)] == [((0.1, 0.2), (0.3, 0.4))]


@pytest.mark.parametrize("text", ["[[1, 2, 3]]", "[1, 2, 3, 4]", "[[a, 2, 3, 4]]", "[[1, 2, 3, 4]", ""])
def test_other_brackets_are_no_boxes(text: str) -> None:
    assert read_boxes(text) == ()


def test_several_boxes_without_marks_are_read_in_order() -> None:
    boxes = read_boxes("here: [[0, 0, 10, 10], [20, 20, 30, 30]][[40, 40, 50, 50]]")
    assert [box.points[0][0] for box in boxes] == [0.0, 0.02, 0.04]
