"""Keys and values of several rows in one cache, padded on the left, to which rows come and from which they go.

Positions are in the keys already and padding is masked, so a row's values may move along the axis of positions. What
a model keeps with its cache besides, a tensor with a row for each row (Qwen-VL's rotary factors), goes with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from vlcore.cache import Layers, RoomyLayer, is_plain
from vlcore.errors import UsageError


def new_cache(config: Any, layers: Layers = (), length: int = 0) -> DynamicCache:
    """A cache that keeps every position, under sliding attention too: masks leave out what lies behind the window.

    Args:
        config: of the language model.
        layers: what an earlier row left.
        length: how many positions of it are taken, which are copied.

    Raises:
        UsageError: for a model that keeps something else than keys and values of each position.
    """
    cache = DynamicCache(config=config)
    if not all(map(is_plain, cache.layers)):
        raise UsageError(f"a model of type {config.model_type}", "its cache holds more than keys and values",
                         "use vlcore infer")
    cache.layers = [RoomyLayer() for _ in cache.layers]  # type: ignore[no-untyped-call]
    for number, (keys, values) in enumerate(layers if length else ()):
        cache.update(keys[..., :length, :], values[..., :length, :], number)
    return cache


def join_caches(first: DynamicCache, second: DynamicCache) -> None:
    """Puts the rows of the second cache behind those of the first, which is changed."""
    width = max(first.get_seq_length(), second.get_seq_length())
    for one, other in zip(list_layers(first), list_layers(second), strict=True):
        one.hold(torch.cat([_widen(one.keys, width), _widen(other.keys, width)]),
                 torch.cat([_widen(one.values, width), _widen(other.values, width)]))
    for name, tensor in _list_row_tensors(first):
        setattr(first, name, torch.cat([tensor, getattr(second, name)]))


def keep_rows(cache: DynamicCache, rows: Sequence[int], width: int) -> None:
    """Leaves only these rows of a cache, and of them the last positions, so many as the longest has."""
    for layer in list_layers(cache):
        index = torch.tensor(rows, device=layer.keys.device)
        layer.hold(layer.keys[:, :, -width:].index_select(0, index), layer.values[:, :, -width:].index_select(0, index))
    for name, tensor in _list_row_tensors(cache):
        setattr(cache, name, tensor.index_select(0, torch.tensor(rows, device=tensor.device)))


def take_row(cache: DynamicCache, row: int, length: int) -> DynamicCache:
    """A cache with a copy of one row, its padding left out."""
    alone = DynamicCache()
    for number, layer in enumerate(list_layers(cache)):
        alone.update(*(part[row : row + 1, :, -length:].clone() for part in (layer.keys, layer.values)), number)
    return alone


def list_layers(cache: DynamicCache) -> list[Any]:
    """The layers of a cache that `new_cache` made."""
    return list(cache.layers)


def _widen(tensor: torch.Tensor, width: int) -> torch.Tensor:
    missing = width - tensor.shape[-2]
    return pad(tensor, (0, 0, missing, 0)) if missing else tensor


def _list_row_tensors(cache: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, value) for name, value in vars(cache).items() if isinstance(value, torch.Tensor)]
