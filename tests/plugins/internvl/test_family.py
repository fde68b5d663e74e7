from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from vlcore_internvl.family import FAMILY, is_first_generation, read_boxes, recognise, reject

NAMES = [
    *("internvl-chat-v1_5", "internvl-chat-v1_5-int8", "internvl-chat-v1_2", "internvl-chat-v1_2-plus"),
    *("mini-internvl-chat-2b-v1_5", "mini-internvl-chat-4b-v1_5"),
    *(f"internvl2-{size}" for size in ("1b", "2b", "4b", "8b", "8b-mpo", "26b", "40b", "llama3-76b")),
    *("internvl2_5-8b", "internvl3-8b", "internvl3_5-8b"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_to_its_name_and_to_its_hub_ids(name: str) -> None:
    record = FAMILY.find_record(name)
    assert record is not None and record.name == name
    assert all(FAMILY.find_record(hub_id) is record for hub_id in record.hub_ids)


def test_only_the_first_generation_keeps_one_picture_for_a_talk() -> None:
    asking = {model.name for model in FAMILY.models if model.ask == "conversation"}
    assert asking == {model.name for model in FAMILY.models if is_first_generation(model)}
    assert not is_first_generation(None)


@pytest.mark.parametrize(
    ("architecture", "known"), [("InternLM2ForCausalLM", True), ("InternLM3ForCausalLM", False), ("", False)]
)
def test_a_checkpoint_is_recognised_by_its_language_model(architecture: str, known: bool) -> None:
    config = {"model_type": "internvl_chat", "llm_config": {"architectures": [architecture]}}
    assert recognise(config, Path()) is known
    assert (architecture or "not named") in str(reject(config, Path()))


def test_other_model_types_are_left_alone() -> None:
    config = {"model_type": "internvl", "llm_config": {"architectures": ["Qwen2ForCausalLM"]}}
    assert not recognise(config, Path()) and reject(config, Path()) is None


def test_the_plugin_is_light_to_import() -> None:
    code = "import sys, vlcore_internvl; print({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("text", ["<ref>cat</ref><box>[[100, 200, 300, 400]]</box>", "cat[[100,200, 300.0, 400]]"])
def test_boxes_are_read_with_and_without_the_marks_that_decoding_leaves_out(text: str) -> None:
    assert [box.points for box in read_boxes(text)] == [((0.1, 0.2), (0.3, 0.4))]


@pytest.mark.parametrize("text", ["[[1, 2, 3]]", "[1, 2, 3, 4]", "[[a, 2, 3, 4]]", "[[1, 2, 3, 4]", ""])
def test_other_brackets_are_no_boxes(text: str) -> None:
    assert read_boxes(text) == ()


def test_several_boxes_without_marks_are_read_in_order() -> None:
    boxes = read_boxes("here: [[0, 0, 10, 10], [20, 20, 30, 30]][[40, 40, 50, 50]]")
    assert [box.points[0][0] for box in boxes] == [0.0, 0.02, 0.04]
