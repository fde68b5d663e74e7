"""Pictures to pixels: every picture takes the same number of positions, whatever its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from vlcore.media import Plan, Slot
from vlcore.resample import resize
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions

from vlcore_qwen_vl.release import count_queries

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage

#: CLIP's.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class SquareProcessor:
    """Squeezes a picture into a square.

    Attributes:
        edge: of the square in pixels.
        tokens: positions a picture takes in the prompt.
        image_token_id: the id at these positions.
    """

    edge: int
    tokens: int
    image_token_id: int

    @classmethod
    def read(cls, checkpoint: Checkpoint, image_token_id: int) -> Self:
        """The processor that a checkpoint's `config.json` asks for."""
        visual = checkpoint.config["visual"]
        return cls(edge=visual["image_size"], tokens=count_queries(checkpoint.config), image_token_id=image_token_id)

    def plan(self, slots: Sequence[Slot], options: EncodeOptions) -> tuple[Plan, ...]:
        """A plan for each slot: one tile a picture."""
        return tuple(Plan(self.tokens * len(slot.images), (1,) * len(slot.images)) for slot in slots)

    def load(self, images: Sequence[PilImage.Image], plan: Plan) -> Mapping[str, torch.Tensor]:
        """`pixel_values` of a slot: (pictures, 3, edge, edge), uint8."""
        import torch

        return {"pixel_values": torch.stack([squeeze(image, self.edge) for image in images])}

    def normalise(self, pixels: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Bytes to float32, normalised by the release's operations in their order."""
        return {name: normalise(squares) for name, squares in pixels.items()}


def normalise(squares: torch.Tensor) -> torch.Tensor:
    """Bytes of RGB, (pictures, 3, edge, edge), to float32: divided by 255, less the mean, over the deviation.

    Divided by a tensor: CUDA would multiply by the reciprocal of a number, which rounds differently.
    """
    import torch

    full, mean, deviation = (
        torch.tensor(values, device=squares.device).view(3, 1, 1) for values in ((255.0,) * 3, MEAN, DEVIATION)
    )
    return squares.float().div_(full).sub_(mean).div_(deviation)


def squeeze(image: PilImage.Image, edge: int) -> torch.Tensor:
    """A picture as a square, its shape not kept: (3, edge, edge), uint8, by Pillow's bicubic."""
    import torch

    (square,) = resize(image, [(edge, edge)])
    return torch.from_numpy(square.transpose(2, 0, 1).copy())
