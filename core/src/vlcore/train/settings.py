"""The settings of a run: what was left open is filled in, and what has no effect is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from vlcore.checkpoint import Run
from vlcore.config import LoraConfig, SftConfig, default_of
from vlcore.errors import UsageError, suggest_near

#: Rows an update when nothing is said.
ROWS_AN_UPDATE = 16
#: Fields that may differ in a resumed run without changing what is learned.
FREE_ON_RESUME = {
    "resume_from_checkpoint", "output_dir", "eval_steps", "eval_batch_size", "save_steps",
    "save_total_limit", "logging_steps", "dataloader_num_workers", "report_to", "hub_token", "device_map",
    "gradient_checkpointing",
}
#: Fields that make another model; a checkpoint cannot go on with them changed.
FIXED_ON_RESUME = ("sft_type", "quantization_bit", "lora_rank", "lora_alpha", "lora_target_modules")


def resolve_settings(config: SftConfig, world: int = 1) -> SftConfig:
    """The configuration with every open setting filled in and every local path absolute.

    Args:
        config: as it was given.
        world: processes that train together.

    Raises:
        UsageError: when there is no data, or no such schedule.
    """
    from transformers import SchedulerType

    if not config.dataset:
        raise UsageError("no dataset", "there is nothing to train on", "give --dataset FILE")
    schedules = [schedule.value for schedule in SchedulerType]
    if config.lr_scheduler_type not in schedules:
        near = suggest_near(config.lr_scheduler_type, schedules)
        raise UsageError(f"lr_scheduler_type {config.lr_scheduler_type}", "there is no such schedule", near)
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
    if config.max_steps > 0:
        yield from _idle(config, ["num_train_epochs"], "max_steps decides")
    if config.val_dataset:
        yield from _idle(config, ["dataset_test_ratio"], "val_dataset is given")
    if not has_validation:
        yield from _idle(config, ["eval_steps", "eval_batch_size"], "there are no validation rows")


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
