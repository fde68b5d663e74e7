"""Keys and values of attention, in buffers with room for the tokens to come. Heavy: imported when needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

#: Keys and values of each layer, (rows, heads, positions, head width).
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]
#: Least positions of room behind what a buffer holds when it is made.
ROOM = 256


class RoomyLayer(DynamicLayer):
    """A layer that writes a new token behind the others; transformers' own copies all of them for each token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values with new ones behind them; both are views of the buffers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = key_states[..., :0, :], value_states[..., :0, :]
            self.keys, self.values = self._buffers
        held = self.get_seq_length()
        wanted = held + key_states.shape[-2]
        if wanted > self._buffers[0].shape[-2]:
            keys, values = (buffer[..., :held, :] for buffer in self._buffers)
            self._buffers = make_room(keys, wanted), make_room(values, wanted)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., held:wanted, :] = states
        self.keys, self.values = (buffer[..., :wanted, :] for buffer in self._buffers)
        return self.keys, self.values

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Takes other keys and values instead of its own, such as those of other rows."""
        self.keys, self.values = self._buffers = keys, values


def make_room(held: torch.Tensor, wanted: int) -> torch.Tensor:
    """A buffer for `wanted` positions and a quarter more, at least `ROOM`, with what is held at its head."""
    size = wanted + max(ROOM, wanted // 4)
    buffer = held.new_empty(*held.shape[:-2], size, held.shape[-1])
    buffer[..., : held.shape[-2], :] = held
    return buffer


def start_cache(config: Any, layers: Sequence[tuple[torch.Tensor, torch.Tensor]] = (), length: int = 0) -> DynamicCache:
    """A cache for a request that begins with the first positions of kept layers, which are copied.

    Args:
        config: of the language model; a layer with a sliding window stays transformers' own.
        layers: what an earlier request left, see `kept_layers`.
        length: how many positions of it.
    """
    cache = DynamicCache(config=config)
    layers_of: Any = RoomyLayer
    cache.layers = [layers_of() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    for number, (keys, values) in enumerate(layers if length else ()):
        cache.update(keys[..., :length, :], values[..., :length, :], number)
    return cache


def kept_layers(cache: DynamicCache) -> Layers:
    """The keys and values of a cache; nothing when a sliding window has lost its oldest ones, or a layer has others."""
    layers: Any = cache.layers
    whole = all(is_plain(layer) and layer.is_initialized and layer.keys.shape[-2] == layer.get_seq_length()
                for layer in layers)
    return tuple((layer.keys, layer.values) for layer in layers) if whole else ()


def is_plain(layer: Any) -> bool:
    """Whether a layer of a cache keeps keys and values of positions and nothing else."""
    return type(layer) in (RoomyLayer, DynamicLayer, DynamicSlidingWindowLayer)
