"""Adapters: which modules they go into, and putting them in."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlcore.errors import UsageError, suggest_near

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from vlcore.config import LoraConfig
    from vlcore.resolve import Checkpoint

_log = logging.getLogger(__name__)
#: Choices that the hook `lora_targets` answers; everything else names modules.
CHOICES = ("DEFAULT", "ALL")
#: Choices of `--modules_to_save`; everything else names modules.
WHOLE_CHOICES = ("VISION", "PROJECTOR", "EMBEDDINGS", "HEAD")
#: PEFT's words for `--init_lora_weights`.
FIRST_WEIGHTS: Mapping[str, Any] = {
    "default": True, "gaussian": "gaussian", "orthogonal": "orthogonal", "pissa": "pissa",
}
#: A name with one of these is a regular expression; dots stand in every full name.
_PATTERN = re.compile(r"[\\*+?\[\]()|^$]")
#: An attention projection: by its usual name, or right in a module called attention (`attention.query_key_value`).
_ATTENTION = re.compile(r"(^|\.)[qkvo]_proj$|att(ention|n)[^.]*\.[^.]+$")


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keeps from users what PEFT calls by names that transformers has since replaced."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield


def find_linear(checkpoint: Checkpoint, model: PreTrainedModel, choice: str) -> tuple[str, ...]:
    """Full names of the linear layers to adapt; quantized ones count.

    Args:
        checkpoint: its `parts`, and the `attention` names of its family.
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
    names = checkpoint.family.attention
    language = [name for name in linear if checkpoint.parts.part_of(name) == "language"]
    return tuple(name for name in language if (name.split(".")[-1] in names if names else _ATTENTION.search(name)))


def find_experts(model: PreTrainedModel) -> tuple[str, ...]:
    """Full names of the modules that hold a mixture's experts as one parameter of three axes each.

    They are no linear layers: no adapter goes into them. `modules_to_save` trains them in full.
    """
    return tuple(name for name, module in model.named_modules() if hasattr(module, "is_concatenated"))


def choose_targets(checkpoint: Checkpoint, model: PreTrainedModel, wanted: Sequence[str]) -> tuple[str, ...]:
    """Full names of the modules that `--lora_target_modules` asks for.

    Args:
        checkpoint: the model's checkpoint.
        model: the native model.
        wanted: `DEFAULT`, `ALL`, a full name, an ending such as `q_proj`, or a regular expression that
            matches full names from end to end.

    Raises:
        UsageError: for what no linear layer is meant by, with near names, and when nothing is chosen.
    """
    every = find_linear(checkpoint, model, "ALL")
    chosen: dict[str, None] = {}
    for name in wanted:
        if name.upper() in CHOICES:
            hits = checkpoint.call("lora_targets", model=model, choice=name.upper())
        else:
            hits = match_names(name, every)
        if not hits:
            near = suggest_near(name, {*CHOICES, *(full.split(".")[-1] for full in every)})
            raise UsageError(f"lora_target_modules {name}", "no linear layer is meant by this", near)
        chosen |= dict.fromkeys(hits)
    if not chosen:
        raise UsageError("lora_target_modules", "no module is named", "use DEFAULT, ALL or names of modules")
    return tuple(chosen)


def match_names(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that a name, an ending or a regular expression means.

    Raises:
        UsageError: for a regular expression that is none.

    >>> match_names("q", ["a.q", "b.qq"]), match_names(r"[ab]\\.q+", ["a.q", "b.qq"])
    (['a.q'], ['a.q', 'b.qq'])
    """
    if not _PATTERN.search(wanted):
        return [name for name in names if name == wanted or name.endswith("." + wanted)]
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise UsageError(f"modules {wanted}", f"it is no regular expression ({error})", "correct it") from error
    return [name for name in names if pattern.fullmatch(name)]


def choose_whole(checkpoint: Checkpoint, model: PreTrainedModel, wanted: Sequence[str]) -> tuple[str, ...]:
    """Full names of the modules that `--modules_to_save` asks for.

    Args:
        checkpoint: the model's checkpoint.
        model: the native model.
        wanted: `VISION`, `PROJECTOR`, `EMBEDDINGS`, `HEAD`, or names as of `choose_targets`.

    Raises:
        UsageError: for what no module is meant by, with near names, and for quantized weights.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    parts = checkpoint.parts
    ends = {"EMBEDDINGS": model.get_input_embeddings(), "HEAD": model.get_output_embeddings()}
    choices = {
        "VISION": [name for name in parts.vision if name in modules],
        "PROJECTOR": [name for name in parts.projector if name in modules],
    } | {choice: [name for name, module in modules.items() if module is end] for choice, end in ends.items()}
    chosen: dict[str, None] = {}
    for name in wanted:
        hits = choices[name.upper()] if name.upper() in choices else match_names(name, modules)
        if not hits:
            near = suggest_near(name, {*WHOLE_CHOICES, *(full.split(".")[-1] for full in modules)})
            raise UsageError(f"modules_to_save {name}", "no module is meant by this", near)
        chosen |= dict.fromkeys(whole for hit in hits for whole in split_list(modules, hit))
    single = [name for name in parts.projector if name not in modules]
    if single and "PROJECTOR" in map(str.upper, wanted):
        _log.warning("modules_to_save PROJECTOR leaves %s as it is: adapters bring whole modules along, no single "
                     "weights", ", ".join(single))
    for name in chosen:
        if not all(parameter.is_floating_point() for parameter in modules[name].parameters()):
            raise UsageError(f"modules_to_save {name}", "its weights are quantized and cannot be trained",
                             "leave quantization_bit out, or name other modules")
    return tuple(chosen)


def split_list(modules: Mapping[str, Any], name: str) -> list[str]:
    """The name of a module, or the names of those in it when it is a list, which PEFT makes no copies of."""
    from torch.nn import ModuleDict, ModuleList

    if not isinstance(modules[name], ModuleList | ModuleDict):
        return [name]
    return [whole for child, _ in modules[name].named_children() for whole in split_list(modules, f"{name}.{child}")]


def add_adapters(checkpoint: Checkpoint, model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with fresh adapters in float32, and copies of the modules that are trained in full.

    Everything else is frozen.

    Raises:
        UsageError: for targets that do not exist.
    """
    import peft

    whole = choose_whole(checkpoint, model, config.modules_to_save)
    tied = model.get_input_embeddings().weight is getattr(model.get_output_embeddings(), "weight", None)
    targets = choose_targets(checkpoint, model, config.lora_target_modules)
    experts = [name for name in find_experts(model) if name not in whole]
    if experts and "ALL" in map(str.upper, config.lora_target_modules):
        _log.info("no adapters go into the experts of %d layers: their weights are no linear layers", len(experts))
    settings = peft.LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout_p,
        # A module that is trained in full needs no adapters in it.
        target_modules=[name for name in targets if not name.startswith(tuple(f"{kept}." for kept in whole))],
        modules_to_save=list(whole) or None, ensure_weight_tying=tied and bool(whole),
        use_rslora=config.use_rslora, use_dora=config.use_dora,
        init_lora_weights=FIRST_WEIGHTS[config.init_lora_weights], task_type="CAUSAL_LM",
    )
    with quiet_peft():
        adapted = peft.get_peft_model(model, settings)
    keep_exact(adapted)
    # PEFT notes the name the model was loaded by; a relative one would be lost with the working directory.
    adapted.peft_config["default"].base_model_name_or_path = str(checkpoint.folder.resolve())
    return adapted


def keep_exact(model: PreTrainedModel | PeftModel) -> None:
    """Brings what learns into float32, so that small updates are not rounded away."""
    for parameter in model.parameters():
        # ZeRO-3 keeps the values elsewhere, in a precision of its own.
        if parameter.requires_grad and not hasattr(parameter, "ds_id"):
            parameter.data = parameter.data.float()
