"""Adapters: which modules they go into, and putting them in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vlcore.errors import UsageError, suggest_near

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from vlcore.config import LoraConfig
    from vlcore.family import ModelFamily
    from vlcore.resolve import Checkpoint

#: Choices that the hook `lora_targets` answers; everything else names modules.
CHOICES = ("DEFAULT", "ALL")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keeps from users what PEFT calls by names that transformers has since replaced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def find_linear(family: ModelFamily, model: PreTrainedModel, choice: str) -> tuple[str, ...]:
    """Full names of the linear layers to adapt; quantized ones count.

    Args:
        family: its `parts` and `attention` names.
        model: the native model.
        choice: `DEFAULT`, the language model's attention projections; `ALL`, every linear layer but the head.
    """
    import torch

    head = model.get_output_embeddings()
    # Layers of GPTQ and its like are no `Linear`; packed weights tell them.
    layers = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) or hasattr(m, "qweight")}
    linear = [name for name, layer in layers.items() if layer is not head]
    if choice == "ALL":
        return tuple(linear)
    language = [name for name in linear if family.parts.part_of(name) == "language"]
    return tuple(name for name in language if name.split(".")[-1] in family.attention)


def choose_targets(checkpoint: Checkpoint, model: PreTrainedModel, wanted: Sequence[str]) -> tuple[str, ...]:
    """Full names of the modules that `--lora_target_modules` asks for.

    Args:
        checkpoint: the model's checkpoint.
        model: the native model.
        wanted: `DEFAULT`, `ALL`, or names: a full name, or an ending such as `q_proj`.

    Raises:
        UsageError: for a name that no linear layer has, with near names, and when nothing is chosen.
    """
    every = find_linear(checkpoint.family, model, "ALL")
    chosen: dict[str, None] = {}
    for name in wanted:
        if name.upper() in CHOICES:
            hits = checkpoint.call("lora_targets", model=model, choice=name.upper())
        else:
            hits = [full for full in every if full == name or full.endswith("." + name)]
        if not hits:
            near = suggest_near(name, {*CHOICES, *(full.split(".")[-1] for full in every)})
            raise UsageError(f"lora_target_modules {name}", "no linear layer is meant by this", near)
        chosen |= dict.fromkeys(hits)
    if not chosen:
        raise UsageError("lora_target_modules", "no module is named", "use DEFAULT, ALL or names of modules")
    return tuple(chosen)


def add_adapters(checkpoint: Checkpoint, model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with fresh adapters in float32; everything else is frozen.

    Raises:
        UsageError: for targets that do not exist.
    """
    import peft

    targets = choose_targets(checkpoint, model, config.lora_target_modules)
    settings = peft.LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout_p,
        target_modules=list(targets), task_type="CAUSAL_LM",
    )
    with quiet_peft():
        adapted = peft.get_peft_model(model, settings)
    # PEFT notes the name the model was loaded by; a relative one would be lost with the working directory.
    adapted.peft_config["default"].base_model_name_or_path = str(checkpoint.folder.resolve())
    return adapted
