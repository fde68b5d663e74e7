"""Members of the family that were not recorded, from training to the merged folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from PIL import Image
from safetensors.torch import load_file
from vlcore import load_model
from vlcore.config import GenerateConfig, SftConfig
from vlcore.export.merging import merge
from vlcore.resolve import Checkpoint

KINDS = ["internlm3", "qwen3_moe", "gpt_oss"]
SHORT = GenerateConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows, two of them with a picture."""
    folder = tmp_path_factory.mktemp("rows")
    colours = ["red", "green", "blue", "white"]
    lines: list[dict[str, Any]] = [{"query": "Which colour?", "response": f"It is {colour}."} for colour in colours]
    for number in (0, 2):
        Image.new("RGB", (40, 30), colours[number]).save(folder / f"{number}.png")
        lines[number]["images"] = [f"{number}.png"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture
def train(rows: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(checkpoint: Checkpoint, **given: Any) -> Any:
        usual = {"max_steps": 2, "learning_rate": 1e-2, "report_to": ("none",), "dataset_test_ratio": 0.0}
        config = SftConfig(model=str(checkpoint.folder), dataset=(str(rows),), output_dir=str(tmp_path / "output"),
                           **(usual | given))
        return vlcore.sft(config)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_answers_as_its_adapter(
    kind: str, tiny: Callable[..., Checkpoint], train: Callable[..., Any], rows: Path
) -> None:
    checkpoint = tiny(kind)
    # gpt-oss gives no positions to what makes its masks, so packing it is refused.
    run = train(checkpoint, packing=kind != "gpt_oss", max_length=200)
    merged = merge(run.checkpoint)
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint.folder, merged))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and changed
    assert all(".self_attn." in name and name.startswith("language_model.") for name in changed)
    answers = [
        model.chat("<image>Which colour?", images=[rows.parent / "0.png"], settings=SHORT).text
        for model in (load_model(adapter=run.checkpoint), load_model(merged))
    ]
    assert answers[0] == answers[1]


def test_a_mixture_trained_in_full_is_saved_expert_by_expert(
    tiny: Callable[..., Checkpoint], train: Callable[..., Any]
) -> None:
    checkpoint = tiny("qwen3_moe")
    run = train(checkpoint, sft_type="full")
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint.folder, run.checkpoint))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".mlp.experts.11.up_proj" in name for name in changed)


def test_packing_gpt_oss_is_refused_with_the_reason(
    tiny: Callable[..., Checkpoint], train: Callable[..., Any]
) -> None:
    with pytest.raises(vlcore.errors.UsageError, match="lets rows see what is packed before them"):
        train(tiny("gpt_oss"), packing=True, max_length=200)
