"""The model's parts, and where adapters go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlcore.testing.outcome import Fault

if TYPE_CHECKING:
    from vlcore.testing.subject import Subject

#: The parts of a model.
PARTS = ("language", "vision", "projector")


def check_parts(subject: Subject) -> None:
    """The parts cover every parameter; embeddings and head are of the language model."""
    model, parts = subject.model.module, subject.checkpoint.parts
    parameters = [name for name, _ in model.named_parameters()]
    lost = [name for name in parameters if parts.part_of(name) is None]
    if lost:
        raise Fault("parts", f"{len(lost)} parameters belong to none: {', '.join(lost[:5])}",
                    "add their prefixes to Parts, so that freezing and counting reach them")
    for part in PARTS:
        if part != "projector" and not any(parts.part_of(name) == part for name in parameters):
            raise Fault(f"part {part}", "it has no parameters", "say which modules belong to it")
    for name, module in (("get_input_embeddings", model.get_input_embeddings()),
                         ("get_output_embeddings", model.get_output_embeddings())):
        found = next((full for full, each in model.named_modules() if each is module), None)
        if found is None or parts.part_of(found) != "language":
            raise Fault(f"{name}() is {found}", f"it belongs to {parts.part_of(found or '')}, not the language model",
                        "let the language part cover embeddings and head")


def check_targets(subject: Subject) -> None:
    """Adapters go into linear layers that exist, by default into the language model's attention alone."""
    model, parts = subject.model.module, subject.checkpoint.parts
    default, every = (list_targets(subject, choice) for choice in ("DEFAULT", "ALL"))
    for name in default:
        if parts.part_of(name) != "language":
            raise Fault("lora_targets DEFAULT", f"{name} belongs to {parts.part_of(name)}",
                        "choose layers of the language model's attention: correct Parts, attention or the hook")
        if any(map(is_attention, default)) and not is_attention(name):
            raise Fault("lora_targets DEFAULT", f"{name} is no layer of attention",
                        "choose the attention's projections alone: correct attention or the hook")
    left = sorted(set(default) - set(every))
    if left:
        raise Fault("lora_targets ALL", f"{left[0]} is among DEFAULT and not among ALL", "choose every linear layer")
    head = model.get_output_embeddings()
    if any(module is head for name, module in model.named_modules() if name in every):
        raise Fault("lora_targets ALL", "the head is among them", "leave get_output_embeddings() out")
    linear = [name for name, module in model.named_modules() if is_linear(module) and module is not head]
    lost = {parts.part_of(name) for name in linear} - {parts.part_of(name) for name in every}
    if lost:
        raise Fault("lora_targets ALL", f"no layer of part {min(map(str, lost))} is among them",
                    "choose every linear layer")


def is_attention(name: str) -> bool:
    """Whether a layer lies in a module that is called attention."""
    return any("attn" in each or "attention" in each for each in name.lower().split(".")[:-1])


def is_linear(module: Any) -> bool:
    """Whether a module is a linear layer; quantized ones are told by their packed weights."""
    import torch

    return isinstance(module, torch.nn.Linear) or hasattr(module, "qweight")


def list_targets(subject: Subject, choice: str) -> Sequence[str]:
    """The modules that a choice means.

    Raises:
        Fault: for none, for one that is said twice, does not exist or is not linear.
    """
    model: Any = subject.model.module
    names = list(subject.checkpoint.call("lora_targets", model=model, choice=choice))
    modules = dict(model.named_modules())
    if not names:
        raise Fault(f"lora_targets {choice}", "no module is chosen",
                    "name the attention's projections in ModelFamily.attention, or fill the hook")
    for name in names:
        if name not in modules:
            raise Fault(f"lora_targets {choice}", f"the model has no module {name}",
                        "give full names, as model.named_modules() has them")
        if not is_linear(modules[name]):
            kind = type(modules[name]).__name__
            raise Fault(f"lora_targets {choice}", f"{name} is a {kind}", "choose linear layers")
        if names.count(name) > 1:
            raise Fault(f"lora_targets {choice}", f"{name} is there {names.count(name)} times", "name each once")
    return names
