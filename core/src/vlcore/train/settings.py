"""The settings of a run: what was left open is filled in, and what has no effect is found."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path

from vlcore.checkpoint import Run
from vlcore.config import LoraConfig, SftConfig, default_of
from vlcore.errors import ExtraMissing, UsageError, suggest_near
from vlcore.metrics import choose_metrics
from vlcore.train.goal import Goal

#: Rows an update when nothing is said.
ROWS_AN_UPDATE = 16
#: Fields that may differ in a resumed run without changing what is learned.
FREE_ON_RESUME = {
    "resume_from_checkpoint", "output_dir", "eval_steps", "eval_batch_size", "save_steps",
    "save_total_limit", "logging_steps", "dataloader_num_workers", "report_to", "hub_token", "device_map",
    "gradient_checkpointing", "forecast", "predict_with_generate", "metric", "predict_limit", "max_new_tokens",
    "sheet_rows", "metric_for_best_model", "early_stopping_patience", "early_stopping_threshold",
}
#: Fields that make another model or another state of the optimizer; a checkpoint cannot go on with them changed.
FIXED_ON_RESUME = (
    "sft_type", "quantization_bit", "lora_rank", "lora_alpha", "lora_target_modules", "use_rslora", "use_dora",
    "init_lora_weights", "modules_to_save", "deepspeed", "fsdp",
)
#: Where figures can go, with the extra that brings the package; none for those that are always there.
REPORTERS = {"tensorboard": "", "wandb": "wandb", "swanlab": "swanlab", "none": ""}
#: Settings of the answers to validation rows.
ANSWERS = ("metric", "predict_limit", "max_new_tokens", "sheet_rows")


def resolve_settings(config: SftConfig, world: int = 1) -> SftConfig:
    """The configuration with every open setting filled in and every local path absolute.

    Args:
        config: as it was given.
        world: processes that train together.

    Raises:
        UsageError: when there is no data, or no such schedule, metric or place for figures.
        ExtraMissing: when a package is not installed that one of them needs.
    """
    from transformers import SchedulerType

    if not config.dataset:
        raise UsageError("no dataset", "there is nothing to train on", "give --dataset FILE")
    schedules = [schedule.value for schedule in SchedulerType]
    if config.lr_scheduler_type not in schedules:
        near = suggest_near(config.lr_scheduler_type, schedules)
        raise UsageError(f"lr_scheduler_type {config.lr_scheduler_type}", "there is no such schedule", near)
    make_goal(config)
    check_reporters(config.report_to)
    if config.use_liger and importlib.util.find_spec("liger_kernel") is None:
        raise ExtraMissing("--use_liger", "liger-kernel", "liger")
    usual = {"lora": 1e-4, "full": 1e-5}[config.sft_type]
    accumulation = config.gradient_accumulation_steps or max(ROWS_AN_UPDATE // (config.batch_size * world), 1)
    return replace(
        config,
        dataset=tuple(map(_absolute, config.dataset)),
        val_dataset=tuple(map(_absolute, config.val_dataset)),
        image_folder=_absolute(config.image_folder),
        vision_tower=_absolute(config.vision_tower),
        output_dir=str(Path(config.output_dir).expanduser().resolve()),
        learning_rate=usual if config.learning_rate is None else config.learning_rate,
        gradient_accumulation_steps=accumulation,
    )


def find_idle(config: SftConfig, has_validation: bool) -> Iterator[str]:
    """Settings that were given but have no effect, with the reason."""
    freezes = ("freeze_vit", "freeze_llm", "freeze_aligner")
    if config.sft_type == "lora":
        yield from _idle(config, freezes, "adapters leave all weights of the model as they are")
    else:
        yield from _idle(config, [item.name for item in fields(LoraConfig)], "sft_type is full")
    if config.packing:
        yield from _idle(config, ["group_by_length"], "all packs have one size")
    if not config.max_length:
        yield from _idle(config, ["on_overflow"], "max_length 0 is no limit")
    if config.max_steps > 0:
        yield from _idle(config, ["num_train_epochs"], "max_steps decides")
    if config.val_dataset:
        yield from _idle(config, ["dataset_test_ratio"], "val_dataset is given")
    if not has_validation:
        names = ["eval_steps", "eval_batch_size", "predict_with_generate", "metric_for_best_model",
                 "early_stopping_patience"]
        yield from _idle(config, names, "there are no validation rows")
    if not config.predict_with_generate:
        yield from _idle(config, ANSWERS, "predict_with_generate is false")
    if not config.early_stopping_patience:
        yield from _idle(config, ["early_stopping_threshold"], "early_stopping_patience is 0")


def make_goal(config: SftConfig) -> Goal:
    """What makes a checkpoint the best one.

    Raises:
        UsageError: for a figure that is not measured, with near names.
        ExtraMissing: when a metric needs a package that is not installed.
    """
    measured = choose_metrics(config.metric) if config.predict_with_generate else ()
    directions = {"eval_loss": False} | {f"eval_{metric.name}": metric.greater_is_better for metric in measured}
    asked = config.metric_for_best_model
    name = asked if asked in directions else f"eval_{asked}"
    if name not in directions:
        near = suggest_near(asked, directions)
        raise UsageError(f"metric_for_best_model {asked}", "it is not measured",
                         f"name it after --metric with --predict_with_generate true, or {near}")
    return Goal(name, directions[name], config.early_stopping_patience, config.early_stopping_threshold)


def check_reporters(names: Sequence[str]) -> None:
    """Refuses places for figures that there are not.

    Raises:
        UsageError: for an unknown name, with near names, and for `none` beside others.
        ExtraMissing: when the package is not installed.
    """
    for name in names:
        if name not in REPORTERS:
            raise UsageError(f"report_to {name}", "figures cannot go there", suggest_near(name, REPORTERS))
        if REPORTERS[name] and importlib.util.find_spec(name) is None:
            raise ExtraMissing(f"--report_to {name}", name, REPORTERS[name])
        if name == "swanlab" and [int(part) for part in version(name).split(".")[:2]] >= [0, 8]:
            raise UsageError(f"--report_to swanlab with swanlab {version(name)}", "transformers does not go with it",
                             "run: pip install 'swanlab<0.8'")
    if "none" in names and len(names) > 1:
        raise UsageError(f"report_to {' '.join(names)}", "none stands alone", "leave none out, or the others")


def compare_resumed(config: SftConfig, run: Run) -> list[str]:
    """Settings that differ from those of the checkpoint a run goes on from.

    Raises:
        UsageError: when they make another model.
    """
    differing = [
        item.name for item in fields(SftConfig)
        if item.name not in FREE_ON_RESUME and getattr(config, item.name) != getattr(run.config, item.name)
    ]
    fixed = [name for name in differing if name in FIXED_ON_RESUME]
    if fixed:
        was = ", ".join(f"{name} {getattr(run.config, name)}" for name in fixed)
        raise UsageError(
            f"resume_from_checkpoint with another {', '.join(fixed)}",
            f"the checkpoint was trained with {was}",
            "give the same, or start anew",
        )
    return [f"{name}: {getattr(run.config, name)} before, {getattr(config, name)} now" for name in differing]


def _idle(config: SftConfig, names: Iterable[str], why: str) -> Iterator[str]:
    for item in fields(SftConfig):
        if item.name in names and getattr(config, item.name) != default_of(item):
            yield f"--{item.name} has no effect: {why}"


def _absolute(source: str) -> str:
    """A local path made absolute, its `#N` kept; names and hub ids as they are."""
    name, mark, count = source.partition("#")
    path = Path(name).expanduser()
    return f"{path.resolve()}{mark}{count}" if name and path.exists() else source
