from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vlcore.checkpoint import Run
from vlcore.config import SftConfig
from vlcore.errors import UsageError
from vlcore.train.settings import compare_resumed, find_idle, resolve_settings


@pytest.mark.parametrize(
    ("given", "rate", "accumulation"),
    [({}, 1e-4, 16), ({"sft_type": "full"}, 1e-5, 16), ({"batch_size": 5}, 1e-4, 3),
     ({"batch_size": 99}, 1e-4, 1),
     ({"learning_rate": 0.0, "gradient_accumulation_steps": 2}, 0.0, 2)],
)
def test_open_settings_are_filled_in(given: dict[str, Any], rate: float, accumulation: int) -> None:
    config = resolve_settings(SftConfig(dataset=("a.jsonl",), **given))
    assert (config.learning_rate, config.gradient_accumulation_steps) == (rate, accumulation)


def test_local_paths_become_absolute_and_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").touch()
    config = resolve_settings(SftConfig(dataset=("a.jsonl#5", "coco-en-mini"), output_dir="out"))
    assert config.dataset == (f"{tmp_path / 'a.jsonl'}#5", "coco-en-mini")
    assert config.output_dir == str(tmp_path / "out")


def test_a_run_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="give --dataset"):
        resolve_settings(SftConfig())


def test_an_unknown_schedule_brings_the_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean cosine"):
        resolve_settings(SftConfig(dataset=("a.jsonl",), lr_scheduler_type="cosin"))


@pytest.mark.parametrize(
    ("given", "named"),
    [({"freeze_vit": True}, "freeze_vit"), ({"sft_type": "full", "lora_rank": 4}, "lora_rank"),
     ({"max_steps": 3, "num_train_epochs": 2.0}, "num_train_epochs"), ({"eval_steps": 7}, "eval_steps"),
     ({"val_dataset": ("b.jsonl",), "dataset_test_ratio": 0.5}, "dataset_test_ratio")],
)
def test_settings_without_effect_are_found(given: dict[str, Any], named: str) -> None:
    assert [line.split()[0] for line in find_idle(SftConfig(**given), has_validation=False)] == [f"--{named}"]


def test_defaults_are_never_reported() -> None:
    assert list(find_idle(SftConfig(), has_validation=False)) == []


def test_settings_that_differ_from_the_resumed_run_are_named() -> None:
    run = Run(Path(), SftConfig(seed=1), {}, {})
    assert compare_resumed(SftConfig(seed=2, save_steps=1), run) == ["seed: 1 before, 2 now"]
    with pytest.raises(UsageError, match="trained with sft_type lora"):
        compare_resumed(SftConfig(sft_type="full"), run)
