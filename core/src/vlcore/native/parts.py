"""Which modules of a native model are its language model, its vision tower and what joins them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from vlcore.family import Parts

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

#: Last names of modules that some model types keep in their vision tower though they join it to the language model:
#: Qwen2-VL's `visual.merger`, Qwen3-VL's `visual.deepstack_merger_list`.
_JOINING = re.compile(r"merger|projector|connector|aligner|resampler")


def find_parts(model: PreTrainedModel) -> Parts:
    """The parts of a model, on any device; together they hold every parameter.

    The language model is the decoder with both ends, input and output embeddings. Vision are the image encoder and
    other models beside the decoder, such as a second tower, without what joins them. The projector is all the rest.
    """
    names = {id(module): name for name, module in model.named_modules()}
    ends = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    language = prune(names[id(module)] for module in ends if module is not None and id(module) in names)
    towers = prune(name for name in find_towers(model) if not _touches(name, language))
    vision = [part for tower in towers for part in split_tower(tower, model.get_submodule(tower))]
    return Parts(
        language=tuple(language), vision=tuple(vision), projector=tuple(list_rest(model, "", [*language, *vision])),
    )


def find_towers(model: PreTrainedModel) -> Iterator[str]:
    """Names of the models in a model, the image encoder among them, itself left out."""
    from transformers import PreTrainedModel

    encoder: Any = model.get_encoder(modality="image")
    for name, module in model.named_modules():
        if name and (module is encoder or isinstance(module, PreTrainedModel)):
            yield name


def split_tower(name: str, tower: nn.Module) -> list[str]:
    """The tower's name, or the names of what is in it when some of that joins it to the language model."""
    inner = list(dict.fromkeys(own.split(".")[0] for own, _ in tower.named_parameters()))
    kept = [child for child in inner if not _JOINING.search(child)]
    return [name] if kept == inner else [f"{name}.{child}" for child in kept]


def list_rest(module: nn.Module, name: str, taken: Collection[str]) -> Iterator[str]:
    """Names of the modules and parameters that have nothing of the taken ones, as few as possible."""
    if name in taken:
        return
    if name and not _touches(name, taken):
        if any(True for _ in module.parameters()):
            yield name
        return
    inside = f"{name}." if name else ""
    yield from (inside + own for own, _ in module.named_parameters(recurse=False) if inside + own not in taken)
    for child, below in module.named_children():
        yield from list_rest(below, inside + child, taken)


def prune(names: Iterator[str]) -> list[str]:
    """The names without those that lie in another one.

    >>> prune(iter(["model.text.embed", "model.text", "head"]))
    ['head', 'model.text']
    """
    kept: list[str] = []
    for name in sorted(set(names), key=len):
        if not any(name.startswith(f"{other}.") for other in kept):
            kept.append(name)
    return kept


def _touches(name: str, others: Collection[str]) -> bool:
    """Whether a module is one of others, in one of them, or has one of them in it."""
    return any(f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.") for other in others)
