"""Tensors of several pictures put one behind the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def join_tensors(parts: Sequence[Mapping[str, torch.Tensor]], ragged: bool) -> dict[str, torch.Tensor]:
    """Tensors by name, one behind the other along their first axis; shorter ones filled with zeros when ragged."""
    import torch

    names = dict.fromkeys(name for part in parts for name in part)
    held = {name: [part[name] for part in parts if name in part] for name in names}
    evened = {name: _fill(found) if ragged else found for name, found in held.items()}
    return {name: torch.cat(found) if len(found) > 1 else found[0] for name, found in evened.items()}


def _fill(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors with zeros at the ends of their axes behind the first, so that all are as long as the longest."""
    from torch.nn.functional import pad

    sizes = [max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]

    def fill(tensor: torch.Tensor) -> torch.Tensor:
        missing = [size - length for size, length in zip(sizes, tensor.shape[1:], strict=True)]
        return pad(tensor, [space for count in reversed(missing) for space in (0, count)]) if any(missing) else tensor

    return [fill(tensor) for tensor in tensors]
