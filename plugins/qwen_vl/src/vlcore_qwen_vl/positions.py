"""Positions beyond the trained length: a rotary base that grows with the prompt, queries that grow with their place.

transformers' `dynamic` rope is another rule: its factor is continuous, and changes while an answer is made. Here,
as in the release, what the prompt's length set stays for its answer, for the cached keys are rotated with it. It
is kept with the cache, so that conversations do not disturb each other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Cache
from vlcore.batch import measure_lengths

if TYPE_CHECKING:
    from vlcore_qwen_vl.language import QwenConfig

#: Cosines and sines, (rows, positions, head width), and the queries' growth, (rows, positions), None for none.
Rotation = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
#: Most doublings of the trained length that are told apart.
DOUBLINGS = 24


class Stretch(nn.Module):
    """Rotary positions with dynamic NTK, and log-n factors. In training both are off, as in the release."""

    def __init__(self, config: QwenConfig) -> None:
        super().__init__()
        self.config = config
        rope: Any = config.rope_parameters
        self.theta: float = rope["rope_theta"]

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, alphas: torch.Tensor) -> Rotation:
        """The rotation of positions.

        Args:
            x: anything with the dtype and device wanted.
            position_ids: (rows, positions), from 0 in each conversation.
            alphas: see `choose_alphas`, (rows, positions) or (rows, 1).
        """
        config = self.config
        stretched = config.use_dynamic_ntk and not self.training
        frequencies = self.choose_frequencies(alphas if stretched else torch.ones_like(alphas))
        angles = position_ids[..., None].float() * frequencies
        both = torch.cat([angles, angles], dim=-1)
        grows = config.use_logn_attn and not self.training
        growth = choose_growth(position_ids, config.seq_length).to(x.dtype) if grows else None
        return both.cos().to(x.dtype), both.sin().to(x.dtype), growth

    def choose_frequencies(self, alphas: torch.Tensor) -> torch.Tensor:
        """(rows, positions) to (rows, positions, half a head's width); computed as the release rounds it."""
        width = self.config.head_dim
        base = self.theta * alphas.double() ** (width / (width - 2))
        exponents = torch.arange(0, width, 2, device=alphas.device).float() / width
        frequencies: torch.Tensor = 1.0 / base.float()[..., None] ** exponents
        return frequencies


def choose_alphas(position_ids: torch.Tensor, cache: Cache | None, trained: int) -> torch.Tensor:
    """The factor of each position's rotary base: 1 up to the trained length, 3 up to twice, 7 up to four times.

    Args:
        position_ids: (rows, positions), from 0 in each conversation.
        cache: where a prompt's factors are kept for its answer.
        trained: the trained length.

    Returns:
        (rows, positions) for a prompt, (rows, 1) for its answer.
    """
    if cache is not None and cache.get_seq_length() and hasattr(cache, "vlcore_alphas"):
        kept: torch.Tensor = cache.vlcore_alphas
        return kept.to(position_ids.device)
    lengths = measure_lengths(position_ids)
    borders = trained * 2 ** torch.arange(DOUBLINGS, device=lengths.device)
    alphas = 2 ** (torch.bucketize(lengths, borders) + 1) - 1
    if cache is not None:
        cache.vlcore_alphas = alphas[:, -1:]  # type: ignore[attr-defined]
    return alphas


def count_alpha(length: int, trained: int) -> int:
    """The factor for one length, see `choose_alphas`.

    >>> [count_alpha(length, 2048) for length in (1, 2048, 2049, 4096, 4097)]
    [1, 1, 3, 3, 7]
    """
    return int(2 ** (math.ceil(math.log2(max(length / trained, 1))) + 1) - 1)


def choose_growth(position_ids: torch.Tensor, trained: int) -> torch.Tensor:
    """The factor of each query: ln(p + 1) / ln(trained length) beyond the trained length, else 1."""
    return ((position_ids + 1).float().log() / math.log(trained)).clamp(min=1)
