"""What `vlcore data` takes: the model and the options of a training that decide what becomes of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from vlcore.config import DataConfig, LoadConfig, default_of, pick
from vlcore.errors import UsageError

if TYPE_CHECKING:
    from vlcore.dataset import Rows
    from vlcore.model import Frontend

#: The options that matter before weights are read.
OPTIONS = (
    "model", "model_type", "hub_token", "revision", "option", "dataset", "dataset_weights", "image_folder", "system",
    "max_length", "on_overflow", "loss_on", "data_seed",
)


@dataclass(frozen=True, kw_only=True)
class LookConfig(DataConfig, LoadConfig):
    """The model and the data, as a training would take them."""

    def __post_init__(self) -> None:
        LoadConfig.__post_init__(self)

    def add_sources(self, sources: Sequence[str]) -> Self:
        """With these sources in front of its own.

        Raises:
            UsageError: when there are none, or not as many as weights.
        """
        named = replace(self, dataset=(*sources, *self.dataset))
        if not named.dataset:
            raise UsageError("no data", "nothing says which rows", "give files, folders or names of data sets")
        DataConfig.__post_init__(named)
        return named


def hide_others() -> dict[str, Any]:
    """The fields that `vlcore data` has no option for, with their defaults."""
    return {item.name: default_of(item) for item in fields(LookConfig) if item.name not in OPTIONS}


def open_frontend(config: LookConfig) -> Frontend | None:
    """Tokenizer, template and media of the model, or None when no model is named. Weights are not looked at."""
    from vlcore.model import build_frontend, resolve_adapted
    from vlcore.resolve import resolve_model

    if not (config.model or config.model_type):
        return None
    load, folder = pick(LoadConfig, config), Path(config.model)
    adapted = bool(config.model) and (folder / "adapter_config.json").is_file()
    checkpoint = resolve_adapted(load, folder) if adapted else resolve_model(load)
    return build_frontend(checkpoint, config.family_options)


def open_sources(config: LookConfig, frontend: Frontend | None, train: bool = True) -> Rows:
    """The rows of all sources, sampled and weighed, none read yet.

    Args:
        config: the sources and how they are read.
        frontend: the model's; without it any marks and any rule for media without tags will do.
        train: whether every row must have an answer.
    """
    from vlcore.boxes import Grounding, read_marks
    from vlcore.dataset import ReadOptions, make_read_options
    from vlcore.dataset.read import open_rows

    if frontend:
        options = make_read_options(config, frontend.checkpoint.family, train, frontend.checkpoint.record)
    else:
        any_marks = Grounding(read=read_marks, write_box=str, write_label=str)
        options = ReadOptions(image_folder=config.image_folder, system=config.system, seed=config.data_seed,
                              train=train, grounding=any_marks)
    return open_rows(config.dataset, options, config.dataset_weights, config.hub_token)
