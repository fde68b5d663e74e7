from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from vlcore.config import GenerateConfig, LoadConfig
from vlcore.errors import ModelNotFound
from vlcore.generate import native_settings
from vlcore.model import VLModel, load_model
from vlcore.resolve import Checkpoint, resolve_model
from vlcore_deepseek_vl.family import FAMILY


@pytest.mark.parametrize("size", ["1.3b", "7b"])
@pytest.mark.parametrize("kind", ["chat", "base"])
def test_a_model_answers_to_its_name_its_hub_id_and_its_folder(size: str, kind: str) -> None:
    name = f"deepseek-vl-{size}-{kind}"
    found = [FAMILY.find_record(given) for given in (name.replace(".", "_"), f"deepseek-ai/{name}", name)]
    assert [record and record.huggingface for record in found] == [f"deepseek-ai/{name}"] * 3


def test_a_folder_tells_which_model_it_is(tiny: Callable[..., Checkpoint], tmp_path: Path) -> None:
    link = tmp_path / "deepseek-vl-7b-chat"
    link.symlink_to(tiny(hybrid=True).folder)
    assert resolve_model(LoadConfig(model=str(tiny().folder))).family is FAMILY
    typed = LoadConfig(model=str(tiny(hybrid=True).folder), model_type="deepseek-vl-7b-chat")
    assert resolve_model(typed).name == "deepseek-vl-7b-chat"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "multi_modality", "gen_vision_config": {}}, "it is Janus"),
        ({"model_type": "multi_modality", "gen_head_config": {}}, "it is Janus"),
        ({"model_type": "deepseek_vl_v2"}, "another architecture"),
    ],
)
def test_look_alikes_are_refused_with_the_reason(config: dict[str, object], reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf8")
    with pytest.raises(ModelNotFound, match=reason) as caught:
        resolve_model(LoadConfig(model=str(tmp_path)))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Checkpoint]) -> VLModel:
    return load_model(tiny().folder, dtype="fp32", device_map="cpu")


def test_a_talk_samples_as_the_release_does(model: VLModel) -> None:
    chosen = native_settings(model, GenerateConfig())
    assert chosen.do_sample and chosen.max_new_tokens == 512
    assert (chosen.temperature, chosen.top_p, chosen.repetition_penalty) == (0.2, 0.95, 1.1)


def test_temperature_0_is_greedy_without_a_penalty(model: VLModel) -> None:
    chosen = native_settings(model, GenerateConfig(temperature=0))
    assert not chosen.do_sample and chosen.repetition_penalty is None
    assert native_settings(model, GenerateConfig(temperature=0, repetition_penalty=1.3)).repetition_penalty == 1.3


def test_the_penalty_sees_the_answer_and_not_the_prompt(model: VLModel) -> None:
    strong = GenerateConfig(temperature=0, repetition_penalty=1e6, max_new_tokens=1)
    plain = GenerateConfig(temperature=0, max_new_tokens=1)
    # Every token of the vocabulary is in the prompt, so a penalty on the prompt would change any answer's start.
    text = model.frontend.tokenizer.decode(range(model.frontend.tokenizer.token_id("<｜begin▁of▁sentence｜>")))
    assert model.chat(text, settings=strong).token_ids == model.chat(text, settings=plain).token_ids
    longer = GenerateConfig(temperature=0, repetition_penalty=1e6, max_new_tokens=24)
    ids = model.chat("What is it?", settings=longer).token_ids
    assert len(set(ids)) == len(ids)
