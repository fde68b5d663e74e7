"""What stands before, behind and between transformers' vision towers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

#: Mean and deviation, a channel.
Normalization = Sequence[Sequence[float]]
#: Edge of SAM's feature map before it is halved; fixed in the release, whatever the towers.
MAP_EDGE = 96


def normalize(images: torch.Tensor, settings: Normalization | None) -> torch.Tensor:
    """Pictures, (images, 3, rows, columns), normalised a channel; as they are without settings."""
    if settings is None:
        return images
    mean, deviation = (images.new_tensor(list(values)).view(3, 1, 1) for values in settings)
    return (images - mean) / deviation


def shrink(images: torch.Tensor, edge: int) -> torch.Tensor:
    """Square pictures at another size: of the values, in float32, not rounded to bytes again."""
    if images.shape[-1] == edge:
        return images
    resized = nn.functional.interpolate(
        images.float(), size=(edge, edge), mode="bilinear", align_corners=False, antialias=True
    )
    return resized.to(images.dtype)


class Aligner(nn.Module):
    """The projector of one stream of features; names of modules as in the release."""

    def __init__(self, projector_type: str, input_dim: int, n_embed: int, depth: int, **_: Any) -> None:
        super().__init__()
        if projector_type == "identity":
            self.layers: nn.Module = nn.Identity()
        elif projector_type == "linear":
            self.layers = nn.Linear(input_dim, n_embed)
        else:
            self.layers = nn.Sequential(nn.Linear(input_dim, n_embed), *make_layers(n_embed, depth))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, tokens, input_dim) to (images, tokens, n_embed)."""
        projected: torch.Tensor = self.layers(features)
        return projected


class SplitAligner(nn.Module):
    """The projector of two towers, each of which gets half of the channels, SAM the first."""

    def __init__(self, input_dim: int, n_embed: int, depth: int, **_: Any) -> None:
        super().__init__()
        self.high_up_proj = nn.Linear(input_dim, n_embed // 2)
        self.low_up_proj = nn.Linear(input_dim, n_embed // 2)
        self.layers = nn.Sequential(*make_layers(n_embed, depth))

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Twice (images, tokens, input_dim) to (images, tokens, n_embed)."""
        joined = torch.cat([self.high_up_proj(high), self.low_up_proj(low)], dim=-1)
        projected: torch.Tensor = self.layers(joined)
        return projected


class JoinedAligner(Aligner):
    """The projector of two towers whose features were put side by side, in a row, or together."""

    def __init__(self, concat_type: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.concat_type = concat_type

    def forward(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Twice (images, tokens, width) to (images, tokens, n_embed)."""
        if self.concat_type == "add":
            return super().forward(high + low)
        return super().forward(torch.cat([high, low], dim=1 if self.concat_type == "sequence" else -1))


class Downsample(nn.Sequential):
    """SAM's map at a fixed size, then halved by convolutions with nothing between them."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(*(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in pairwise(channels)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(images, channels, rows, columns) to (images, last channels, rows, columns); resized in float32."""
        size = (MAP_EDGE, MAP_EDGE)
        resized = nn.functional.interpolate(features.float(), size=size, mode="bilinear", align_corners=False)
        halved: torch.Tensor = super().forward(resized.to(features.dtype))  # type: ignore[no-untyped-call]
        return halved


def choose_aligner(concat_type: str, settings: Mapping[str, Any]) -> nn.Module:
    """The projector of two towers."""
    return SplitAligner(**settings) if concat_type == "tuple" else JoinedAligner(concat_type, **settings)


def make_layers(width: int, depth: int) -> list[nn.Module]:
    """The layers of a projector behind its first."""
    return [layer for _ in range(depth - 1) for layer in (nn.GELU(), nn.Linear(width, width))]
