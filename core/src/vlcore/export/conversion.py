"""A release's tensors as native ones and back, a few at a time.

transformers converts all tensors of a model at once. Here the same table is applied to the few that belong
together: those that one conversion makes of each other, such as a fused `qkv` and its three parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Tensors = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that are converted together: their names in the release and in the model, and the latter's shapes."""

    released: tuple[str, ...]
    native: tuple[str, ...]
    shapes: tuple[torch.Size, ...]


class Conversion:
    """The table by which a release is loaded into a model, and what of it the release makes use of.

    Args:
        model: the native model, on any device; saving it reverses that table from then on.
        names: the names of the release's tensors.
    """

    def __init__(self, model: PreTrainedModel, names: Iterable[str]) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        self.model, self.state = model, model.state_dict()
        self._split(get_model_conversion_mapping(model), WeightRenaming)
        for name in names:
            self._name_first(name)
        used = [entry for entry in (*self.renamings, *self.converters) if entry.was_used()]
        self._split(used, WeightRenaming)
        model._weight_conversions = used  # type: ignore[assignment]

    def _split(self, entries: Iterable[Any], renaming: type[Any]) -> None:
        entries = list(entries)
        self.renamings = [entry for entry in entries if isinstance(entry, renaming)]
        self.converters = [entry for entry in entries if not isinstance(entry, renaming)]

    def list_groups(self, tensors: Tensors) -> Iterator[Group]:
        """The groups of a release, found on tensors without data, (name, meta tensor)."""
        together: dict[str, list[str]] = {}
        for name in tensors:
            together.setdefault(self._name_first(name)[0], []).append(name)
        for names in together.values():
            made = self.to_native({name: tensors[name] for name in names})
            yield Group(tuple(names), tuple(made), tuple(tensor.shape for tensor in made.values()))

    def compare(self, groups: Iterable[Group]) -> dict[str, list[str]]:
        """What of the groups does not fit the model, by transformers' words for it (`missing_keys` and so on)."""
        made = {name: shape for group in groups for name, shape in zip(group.native, group.shapes, strict=True)}
        twins = getattr(self.model, "all_tied_weights_keys", None) or {}
        tied = {name for pair in twins.items() if made.keys() & set(pair) for name in pair}
        shapes = {name: tensor.shape for name, tensor in self.state.items()}
        kinds = {
            "missing_keys": [name for name in shapes if name not in made and name not in tied],
            "unexpected_keys": [name for name in made if name not in shapes],
        }
        for kind, names in kinds.items():
            ignored = getattr(self.model, f"_keys_to_ignore_on_load_{kind.removesuffix('_keys')}", None) or ()
            kinds[kind] = [name for name in names if not any(re.search(pattern, name) for pattern in ignored)]
        misshapen = [name for name, shape in made.items() if shapes.get(name, shape) != shape]
        return {**kinds, "mismatched_keys": misshapen}

    def to_native(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """The native tensors that whole groups of a release's tensors become."""
        from transformers.core_model_loading import WeightRenaming, dot_natural_key

        by_pattern = {pattern: entry for entry in self.converters for pattern in entry.source_patterns}
        waiting: dict[str, Any] = {}
        for name in sorted(tensors, key=dot_natural_key):
            first, pattern = self._name_first(name)
            entry = deepcopy(by_pattern[pattern]) if pattern else WeightRenaming(name, first)
            waiting.setdefault(first, entry).add_tensor(first, name, pattern or name, tensors[name])
        made: dict[str, Any] = {}
        for first, entry in waiting.items():
            made |= entry.convert(first, model=self.model, config=self.model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def to_release(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """The release's tensors that whole groups of native tensors become."""
        from transformers.core_model_loading import revert_weight_conversion

        reverted: dict[str, torch.Tensor] = revert_weight_conversion(self.model, dict(tensors))
        return reverted

    def _name_first(self, name: str) -> tuple[str, str | None]:
        """The first native name of a release's tensor, and the pattern of the converter that takes it."""
        from transformers.core_model_loading import rename_source_key

        prefix = self.model.base_model_prefix
        first, pattern = rename_source_key(name, self.renamings, self.converters, prefix, self.state)
        return (name, None) if first not in self.state and name in self.state else (first, pattern)
