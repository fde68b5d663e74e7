from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from vlcore.checkpoint import Run
from vlcore.config import SftConfig
from vlcore.errors import ExtraMissing, UsageError
from vlcore.train import settings
from vlcore.train.goal import Goal
from vlcore.train.settings import check_reporters, compare_resumed, find_idle, make_goal, resolve_settings


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
     ({"max_length": 0, "on_overflow": "drop"}, "on_overflow"),
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


@pytest.mark.parametrize("name", ["wandb", "swanlab"])
def test_a_reporter_that_is_not_installed_names_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=rf"pip install 'vlcore\[{name}\]'"):
        check_reporters(["tensorboard", name])


def test_a_swanlab_too_new_for_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.importlib.util, "find_spec", lambda name: object())
    for version, refused in (("0.10.3", True), ("0.8.0", True), ("0.7.20", False)):
        monkeypatch.setattr(settings, "version", lambda name, version=version: version)
        with pytest.raises(UsageError, match=r"swanlab<0\.8") if refused else nullcontext():
            check_reporters(["swanlab"])


@pytest.mark.parametrize(
    ("asked", "name", "greater"),
    [("eval_loss", "eval_loss", False), ("loss", "eval_loss", False), ("cer", "eval_cer", False),
     ("eval_exact_match", "eval_exact_match", True)],
)
def test_the_figure_that_counts_may_be_named_short(asked: str, name: str, greater: bool) -> None:
    config = SftConfig(predict_with_generate=True, metric=("cer", "exact_match"), metric_for_best_model=asked,
                       early_stopping_patience=2, early_stopping_threshold=0.5)
    assert make_goal(config) == Goal(name, greater, 2, 0.5)


@pytest.mark.parametrize(
    ("given", "has_validation", "named"),
    [
        ({"metric": ("cer",)}, True, "metric"), ({"predict_limit": 3}, True, "predict_limit"),
        ({"early_stopping_threshold": 0.5}, True, "early_stopping_threshold"),
        ({"early_stopping_patience": 2}, False, "early_stopping_patience"),
        ({"predict_with_generate": True}, False, "predict_with_generate"),
    ],
)
def test_settings_of_an_evaluation_that_does_not_happen_are_found(
    given: dict[str, Any], has_validation: bool, named: str
) -> None:
    assert [line.split()[0] for line in find_idle(SftConfig(**given), has_validation)] == [f"--{named}"]


def test_kernels_that_are_not_installed_name_their_extra() -> None:
    with pytest.raises(ExtraMissing, match=r"vlcore\[liger\]"):
        resolve_settings(SftConfig(dataset=("a.jsonl",), use_liger=True))
