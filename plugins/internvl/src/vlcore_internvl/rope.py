"""Rotary positions that depend on a conversation's own length and on nothing else.

transformers' dynamic and longrope modules take the length from the whole batch and remember the longest seen,
so an answer would depend on its neighbours and on earlier requests. Here nothing is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from vlcore.batch import measure_lengths

#: Rope types whose frequencies change with the length.
STATEFUL = ("dynamic", "longrope")


class OwnLengthRotary(nn.Module):
    """Cosines and sines for dynamic (InternLM2, Qwen2.5 of InternVL3) and longrope (Phi-3) positions."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.rope: Mapping[str, Any] = config.rope_parameters
        split: int = config.hidden_size // config.num_attention_heads
        self.width = int(getattr(config, "head_dim", None) or split)
        self.longest = config.max_position_embeddings
        self.original = self.rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", self.longest
        )

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines.

        Args:
            x: anything with the dtype and device wanted.
            position_ids: (rows, positions), from 0 in each conversation.

        Returns:
            Two tensors (rows, positions, head width).
        """
        lengths = measure_lengths(position_ids)[..., None]
        dynamic = self.rope["rope_type"] == "dynamic"
        frequencies = self.scale_base(lengths) if dynamic else self.choose_factor(lengths)
        angles = position_ids[..., None].float() * frequencies
        both = torch.cat([angles, angles], dim=-1)
        scale = 1.0 if dynamic else self.attention_scale
        return (both.cos() * scale).to(x.dtype), (both.sin() * scale).to(x.dtype)

    def rotation_at(self, length: int) -> int:
        """What a prompt of this length does to its keys: lengths of one number rotate them alike."""
        if self.rope["rope_type"] == "dynamic":
            return int(max(length, self.longest))
        return int(length > self.original)

    def scale_base(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frequencies whose base grows with the length once it is beyond the trained one (InternLM2)."""
        factor, width = self.rope["factor"], self.width
        stretch = factor * lengths.clamp(min=self.longest).float() / self.longest - (factor - 1)
        base = self.rope["rope_theta"] * stretch ** (width / (width - 2))
        frequencies: torch.Tensor = 1.0 / base ** self.exponents(lengths.device)
        return frequencies

    def choose_factor(self, lengths: torch.Tensor) -> torch.Tensor:
        """Frequencies divided by the short factors up to the original length, by the long ones beyond."""
        long = torch.tensor(self.rope["long_factor"], device=lengths.device)
        short = torch.tensor(self.rope["short_factor"], device=lengths.device)
        factors = torch.where(lengths > self.original, long, short)
        base: torch.Tensor = self.rope["rope_theta"] ** self.exponents(lengths.device)
        return 1.0 / (factors * base)

    @property
    def attention_scale(self) -> float:
        """Longrope's factor on cosines and sines, for every length."""
        factor = self.rope["factor"]
        return math.sqrt(1 + math.log(factor) / math.log(self.original)) if factor > 1 else 1.0

    def exponents(self, device: torch.device) -> torch.Tensor:
        """0, 2/d, 4/d ... for a head of width d."""
        steps: torch.Tensor = torch.arange(0, self.width, 2, device=device).float()
        return steps / self.width
