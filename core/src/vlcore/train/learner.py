"""The model as it learns: which weights are trained, and in which precision.

Weights that learn are kept in float32, so that small updates are not rounded away; all others stay in the
dtype asked for, which is also what is computed in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlcore.checkpoint import Run, load_adapter
from vlcore.errors import UsageError
from vlcore.footprint import PEFT_PREFIX, PartSize, count_parts
from vlcore.lora import add_adapters, keep_exact
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore.table import align
from vlcore.train.pissa import read_factors, read_plain
from vlcore.weights import choose_dtype, keep_unpacked

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vlcore.config import SftConfig
    from vlcore.family import Parts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Learner:
    """A model that learns.

    Attributes:
        model: what learns is marked by `requires_grad`.
        first: the factors of PiSSA adapters before the first step, which the weights of the release lack.
    """

    model: PreTrainedModel
    first: Mapping[str, torch.Tensor] | None = None


def load_learner(checkpoint: Checkpoint, config: SftConfig, resumed: Run | None) -> Learner:
    """The model to train: adapters put in or parts frozen, the rest as it was loaded.

    Args:
        checkpoint: the base model.
        config: how to load and what to train.
        resumed: the checkpoint whose weights to go on from.

    Raises:
        UsageError: when nothing is left to train, or fp16 is asked for on a CPU.
    """
    from transformers import set_seed

    set_seed(config.seed)  # adapters start from random numbers
    make = load_adapted if config.sft_type == "lora" else load_full
    learner = make(checkpoint, config, resumed)
    model = learner.model
    if config.dtype == "fp16" and model.device.type == "cpu":
        raise UsageError("dtype fp16 on a CPU", "it has no mixed precision there", "use --dtype bf16 or fp32")
    leave_cache(model)
    if config.gradient_checkpointing:
        save_activations(model)
    for line in describe_parts(model, checkpoint.parts):
        _log.info(line)
    return learner


def leave_cache(model: PreTrainedModel) -> None:
    """Keeps a model from filling a cache: nothing is generated, and with one transformers looks for no packed rows.

    Some models ask their own configuration (Idefics3), others that of their language model.
    """
    for config in (model.config, model.config.get_text_config()):
        config.use_cache = False


def describe_parts(model: PreTrainedModel, parts: Parts) -> list[str]:
    """A table of how many parameters each part has and trains, a line a part."""
    sizes = count_parts(model, parts)
    total = PartSize("all", sum(size.parameters for size in sizes), sum(size.trained for size in sizes))
    rows = [(size.name, f"{size.parameters:,}", f"{size.trained:,}",
             f"{100 * size.trained / size.parameters if size.parameters else 0:.2f} %") for size in (*sizes, total)]
    table = [("part", "parameters", "trained", ""), *rows]
    return align(table, 0)


def load_adapted(checkpoint: Checkpoint, config: SftConfig, resumed: Run | None) -> Learner:
    """The frozen model with fresh adapters, or with those of a checkpoint."""
    from peft import prepare_model_for_kbit_training

    model = checkpoint.call("load_model", config=config)
    if config.quantization_bit:
        prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        keep_unpacked(model, every=True)
    adapted: Any
    if config.init_lora_weights == "pissa":
        adapted = add_adapters(checkpoint, model, replace(config, init_lora_weights="default") if resumed else config)
        first = read_plain(adapted, resumed.folder) if resumed else read_factors(adapted)
        return Learner(adapted, first)
    if resumed and resumed.adapter:
        adapted = load_adapter(model, resumed.adapter, trainable=True)
        keep_exact(adapted)
    else:
        adapted = add_adapters(checkpoint, model, config)
    return Learner(adapted)


def load_full(checkpoint: Checkpoint, config: SftConfig, resumed: Run | None) -> Learner:
    """The model in float32, its frozen parts in the dtype asked for."""
    source = open_checkpoint(resumed.folder, checkpoint.record) if resumed else checkpoint
    model: PreTrainedModel = source.call("load_model", config=replace(config, dtype="fp32"))
    flags = {"vision": config.freeze_vit, "language": config.freeze_llm, "projector": config.freeze_aligner}
    freeze_parts(checkpoint, model, [part for part, frozen in flags.items() if frozen])
    dtype = choose_dtype(config.dtype, checkpoint.config)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return Learner(model)


def freeze_parts(checkpoint: Checkpoint, model: PreTrainedModel, frozen: Sequence[str]) -> None:
    """Leaves out the parameters of these parts.

    Raises:
        UsageError: when nothing is left.
    """
    part_of = checkpoint.parts.part_of
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"freezing {', '.join(frozen)}", "nothing is left to train", "leave one of them out")


def trains_towers(checkpoint: Checkpoint, model: PreTrainedModel) -> bool:
    """Whether anything is trained that only pictures reach."""
    part_of = checkpoint.parts.part_of
    learning = (name.removeprefix(PEFT_PREFIX) for name, p in model.named_parameters() if p.requires_grad)
    return any(part_of(name) != "language" for name in learning)


def save_activations(model: PreTrainedModel) -> None:
    """Recomputes activations in the backward pass where the model can, else says that it cannot."""
    if not model.supports_gradient_checkpointing:
        name = type(model).__name__
        _log.warning("--gradient_checkpointing has no effect: %s cannot recompute activations", name)
        return
    # Not reentrant: gradients then reach adapters though the embeddings in front of them are frozen.
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
