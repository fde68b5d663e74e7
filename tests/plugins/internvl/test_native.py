"""InternVL in transformers' own layout: owned by this plugin, and computed as transformers computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from PIL import Image as PilImage
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, InternVLForConditionalGeneration
from vlcore.config import GenerateConfig, SftConfig
from vlcore.export.merging import merge
from vlcore.messages import user
from vlcore.native.processor import load_processor
from vlcore.native.tiny import write_tiny
from vlcore.plugins import get_registry
from vlcore.resolve import open_checkpoint, read_json
from vlcore_internvl.native import FAMILY

PICTURE = PilImage.effect_noise((90, 40), 60).convert("RGB")


#: Language models of the conversions, by what their `text_config` has beside a Qwen2's.
LANGUAGES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3_moe": {"num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": None, "sliding_window": 24},
}


@pytest.fixture(scope="module", params=LANGUAGES)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny conversion with the names of the published ones."""
    folder: Path = tmp_path_factory.mktemp("native") / "InternVL3-1B-hf"
    folder.mkdir()
    write_tiny("internvl", folder, ["What is it? It is red."])
    if request.param != "qwen2":
        config = read_json(folder / "config.json")
        config["text_config"] |= {"model_type": request.param, **LANGUAGES[request.param]}
        (folder / "config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        InternVLForConditionalGeneration(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


def test_a_conversion_has_one_owner_which_is_not_the_originals() -> None:
    owners = [plugin for plugin in get_registry().plugins for family in plugin.families if "internvl" in family.native]
    assert [plugin.name for plugin in owners] == ["internvl_native"]


def test_a_conversion_is_known_by_its_folder_and_names(release: Path) -> None:
    checkpoint = open_checkpoint(release)
    assert checkpoint.family.name == "internvl_hf" and checkpoint.record is FAMILY.find_record("internvl3-1b-hf")
    assert all(record.name == record.huggingface.split("/")[1].lower() for record in FAMILY.models)


def test_scores_are_those_of_transformers_own_processor_and_model(release: Path) -> None:
    model = vlcore.load_model(release)
    example = model.encode([user("What is it?", [PICTURE])])
    asked = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "What is it?"}]
    inputs: Any = load_processor(release).apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )
    assert list(example.layout.ids) == inputs["input_ids"][0].tolist()
    with torch.no_grad():
        expected = AutoModelForImageTextToText.from_pretrained(release).eval()(**inputs).logits[0]
    torch.testing.assert_close(model.compute_logits(example)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_merged_conversion_answers_as_its_adapter(release: Path, tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "noise.png")
    row = {"query": "What is it?", "response": "It is red.", "images": ["noise.png"]}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 2)
    run = vlcore.sft(SftConfig(
        model=str(release), dataset=(str(tmp_path / "rows.jsonl"),), output_dir=str(tmp_path / "output"), max_steps=2,
        learning_rate=1e-2, dataset_test_ratio=0.0, report_to=("none",),
    ))
    merged = merge(run.checkpoint)
    before, after = (load_file(folder / "model.safetensors") for folder in (release, merged))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed
    assert all(".self_attn." in name and "language_model" in name for name in changed)
    settings = GenerateConfig(max_new_tokens=6, temperature=0)
    models = (vlcore.load_model(adapter=run.checkpoint), vlcore.load_model(merged))
    told = [model.chat("What is it?", images=[PICTURE], settings=settings).text for model in models]
    assert told[0] == told[1]
