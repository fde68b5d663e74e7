"""Pictures to padded squares: sizes first, then pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from vlcore.media import Plan, Size, Slot
from vlcore.resample import resize
from vlcore.resolve import Checkpoint, read_json
from vlcore.template import EncodeOptions
from vlcore.tokenizer import Tokenizer

from vlcore_deepseek_vl.release import read_processor, read_special_tokens

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray
    from PIL import Image as PilImage

#: CLIP's, which the release's processor takes where its file says nothing.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class SquareProcessor:
    """Shrinks or enlarges each picture to fit a square and pads the rest.

    Attributes:
        edge: edge of the square in pixels.
        tokens: positions a picture takes in the prompt.
        image_token_id: the id at these positions.
        min_size: shortest side of a resized picture; a thinner one is stretched.
        mean: of the normalisation, a channel; its colour fills the padding, grey where there is none.
        std: of the normalisation, a channel.
        normalize: whether pixels are normalised here; the 7B does it in the model.
        rescale: factor from bytes to pixels.
    """

    edge: int
    tokens: int
    image_token_id: int
    min_size: int = 14
    mean: tuple[float, ...] | None = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    normalize: bool = True
    rescale: float = 1 / 255

    @classmethod
    def read(cls, checkpoint: Checkpoint, tokenizer: Tokenizer) -> Self:
        """The processor that a checkpoint's `preprocessor_config.json` asks for."""
        given = read_json(checkpoint.folder / "preprocessor_config.json")
        mean = given.get("image_mean", CLIP_MEAN)
        return cls(
            edge=given["image_size"],
            tokens=read_processor(checkpoint.folder).get("num_image_tokens", 576),
            image_token_id=tokenizer.token_id(read_special_tokens(checkpoint.folder).image),
            min_size=given.get("min_size", 14),
            mean=None if mean is None else tuple(mean),
            std=tuple(given.get("image_std", CLIP_STD)),
            normalize=given.get("do_normalize", True),
            rescale=given.get("rescale_factor", 1 / 255),
        )

    @property
    def background(self) -> tuple[int, ...]:
        """Colour of the padding. The release computes it, whatever `background_color` says."""
        return (127, 127, 127) if self.mean is None else tuple(int(value * 255) for value in self.mean)

    def plan(self, slots: Sequence[Slot], options: EncodeOptions) -> tuple[Plan, ...]:
        """The same for every picture, whatever its size; `detail` is its size within the square."""
        return tuple(Plan(self.tokens, (1,), fit_size(slot.sizes[0], self.edge, self.min_size)) for slot in slots)

    def load(self, images: Sequence[PilImage.Image], plan: Plan) -> Mapping[str, torch.Tensor]:
        """`pixel_values` of a slot: (1, 3, edge, edge), uint8."""
        (resized,) = resize(images[0], [plan.detail])
        return {"pixel_values": self.pad(resized)[None]}

    def pad(self, picture: NDArray[numpy.uint8]) -> torch.Tensor:
        """A picture, (height, width, 3), in the middle of a square, (3, edge, edge).

        An odd pixel of padding goes to the right or below.
        """
        import torch

        height, width, _ = picture.shape
        left, top = (self.edge - width) // 2, (self.edge - height) // 2
        square = torch.tensor(self.background, dtype=torch.uint8).view(3, 1, 1).repeat(1, self.edge, self.edge)
        square.numpy()[:, top : top + height, left : left + width] = picture.transpose(2, 0, 1)
        return square

    def normalise(self, pixels: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Bytes to float32, normalised unless the model does it.

        The release multiplies in float64, which some devices lack, and goes on in float32: the 256 products are
        looked up.
        """
        import torch

        def one(squares: torch.Tensor) -> torch.Tensor:
            products = (torch.arange(256, dtype=torch.float64) * self.rescale).float().to(squares.device)
            values = products[squares.int()]
            if self.normalize and self.mean is not None:
                mean, std = (torch.tensor(v, device=squares.device).view(3, 1, 1) for v in (self.mean, self.std))
                values.sub_(mean).div_(std)
            return values

        return {name: one(squares) for name, squares in pixels.items()}


def fit_size(size: Size, edge: int, min_size: int) -> Size:
    """A picture's size within the square: the longer side fills it, the other is cut to whole pixels.

    451x300 in a square of 192: 300 / 451 * 192 = 127.7 becomes 127. 600x12 in one of 384: 7.68 is raised to 14.

    >>> fit_size((451, 300), 192, 14), fit_size((600, 12), 384, 14)
    ((192, 127), (384, 14))
    """
    longer = max(size)
    width, height = (max(int(side / longer * edge), min_size) for side in size)
    return width, height
