"""Ways to train: each learns, resumes exactly, and leaves an adapter that plain PEFT loads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from vlcore import load_model
from vlcore.config import SftConfig
from vlcore.errors import UsageError
from vlcore.lora import quiet_peft
from vlcore.messages import user
from vlcore.train.sft import sft

METHODS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "lora_plus": {"lora_plus_ratio": 16.0},
    "projector": {"modules_to_save": ("PROJECTOR",), "aligner_lr": 1e-2},
    "projector_of_all": {"modules_to_save": ("PROJECTOR",), "lora_target_modules": ("ALL",)},
    "embeddings_and_head": {"modules_to_save": ("EMBEDDINGS", "HEAD")},
    "noise": {"neftune_alpha": 5.0},
    "smoothing": {"label_smoothing": 0.1},
}


def read_losses(folder: Path) -> list[float]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_with_the_same_bits(method: str, make_config: Callable[..., SftConfig]) -> None:
    config = make_config(**METHODS[method], save_total_limit=3)
    whole = sft(config)
    first = whole.folder / "checkpoint-2"
    resumed = sft(replace(config, resume_from_checkpoint=str(first), output_dir=config.output_dir + "-again"))
    assert read_losses(resumed.folder) == read_losses(whole.folder)
    name = "adapter_model.safetensors"
    expected, found = load_file(whole.checkpoint / name), load_file(resumed.checkpoint / name)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("method", ["rslora", "dora", "pissa", "projector", "embeddings_and_head"])
def test_the_adapter_loads_with_plain_peft_and_answers_alike(
    method: str, make_config: Callable[..., SftConfig], release: Path
) -> None:
    result = sft(make_config(**METHODS[method]))
    ours, base = load_model(result.checkpoint), load_model(release)
    example = ours.encode([user("Which colour?")])
    before, _ = base.compute_logits(example)
    expected, _ = ours.compute_logits(example)
    with quiet_peft():
        base.module = PeftModel.from_pretrained(base.module, result.checkpoint).eval()
    found, _ = base.compute_logits(example)
    assert torch.equal(found, expected)
    assert not torch.allclose(found, before, atol=1e-6)


def test_a_pissa_run_starts_from_the_releases_answers(make_config: Callable[..., SftConfig], release: Path) -> None:
    result = sft(make_config(init_lora_weights="pissa", max_steps=1, save_steps=1, learning_rate=0.0))
    trained, base = load_model(result.checkpoint), load_model(release)
    example = base.encode([user("Which colour?")])
    torch.testing.assert_close(trained.compute_logits(example)[0], base.compute_logits(example)[0], atol=1e-5, rtol=0)


def test_the_table_counts_what_each_part_trains(
    make_config: Callable[..., SftConfig], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "vlcore"):
        sft(make_config(modules_to_save=("PROJECTOR",), vit_lr=1e-3))
    lines = [record.getMessage().split() for record in caplog.records]
    table = {line[0]: line[1:] for line in lines if line[:1] and line[0] in ("vision", "projector", "language", "all")}
    assert table["vision"][1] == "0"
    assert table["projector"][0] == table["projector"][1]
    total = int(table["all"][1].replace(",", ""))
    assert total == sum(int(table[part][1].replace(",", "")) for part in ("vision", "projector", "language"))
    assert any("--vit_lr has no effect" in record.getMessage() for record in caplog.records)


def test_smoothing_changes_training_and_not_evaluation(make_config: Callable[..., SftConfig]) -> None:
    plain = sft(make_config(learning_rate=0.0))
    smooth = sft(make_config(learning_rate=0.0, label_smoothing=0.2))
    assert smooth.loss != plain.loss
    assert smooth.eval_loss == plain.eval_loss


def test_rates_of_parts_go_to_their_parameters(make_config: Callable[..., SftConfig]) -> None:
    still = make_config(sft_type="full", learning_rate=1e-3, vit_lr=0.0, aligner_lr=0.0, weight_decay=0.0)
    result = sft(still)
    trained, base = load_model(result.checkpoint), load_model(still.model)
    part_of = base.checkpoint.parts.part_of
    before = dict(base.module.named_parameters())
    moved = {part_of(name) for name, p in trained.module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"language"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"init_lora_weights": "pissa", "use_dora": True}, "pissa with use_dora"),
        ({"modules_to_save": ("PROJEKTOR",)}, "modules_to_save PROJEKTOR.*PROJECTOR"),
        ({"lora_target_modules": ("(q_proj",)}, "no regular expression"),
        ({"adam_beta2": 1.0}, "adam_beta2 is 1.0, it takes less than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, object], said: str, make_config: Callable[..., SftConfig]
) -> None:
    with pytest.raises(UsageError, match=said):
        sft(make_config(**settings))
