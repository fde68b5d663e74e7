"""Pictures to squares: the layout from sizes alone, then pixels as CLIP's preprocessing makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from vlcore.errors import MediaError
from vlcore.media import MAX_PIXELS, Plan, Size, Slot
from vlcore.resample import resize
from vlcore.resolve import Checkpoint, read_json
from vlcore.template import EncodeOptions

from vlcore_yi_vl.family import find_vision
from vlcore_yi_vl.release import IMAGE_ID, count_tokens

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage


@dataclass(frozen=True, kw_only=True)
class SquareProcessor:
    """Makes a square of each picture.

    A photograph of 640 x 480 is padded with the mean colour to 640 x 640 (or left as it is, without padding),
    made 448 x 448 (597 x 448) by Pillow's bicubic, and its middle of 448 x 448 is taken.

    Attributes:
        edge: the shorter side after resizing, in pixels.
        crop: side of the square that is cut out of the middle.
        tokens: positions a picture takes in the prompt.
        mean: mean colour, red, green, blue, from 0 to 1.
        deviation: standard deviation of the colours.
        scale: what 8-bit values are multiplied by.
        resample: Pillow's number of the resizing filter.
        aspect: `pad` for padding to a square before everything.
        image_token_id: the id at image positions.
    """

    edge: int
    crop: int
    tokens: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    scale: float = 1 / 255
    resample: int = 3
    aspect: str = ""
    image_token_id: int = IMAGE_ID

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> Self:
        """The processor that the vision folder's `preprocessor_config.json` asks for."""
        settings = read_json(find_vision(checkpoint.config, checkpoint.folder) / "preprocessor_config.json")
        return cls(
            edge=_side(settings["size"], "shortest_edge"),
            crop=_side(settings["crop_size"], "height"),
            tokens=count_tokens(checkpoint),
            mean=tuple(settings["image_mean"]),
            deviation=tuple(settings["image_std"]),
            scale=settings.get("rescale_factor", 1 / 255),
            resample=settings.get("resample", 3),
            aspect=str(checkpoint.config.get("image_aspect_ratio")),
        )

    def plan(self, slots: Sequence[Slot], options: EncodeOptions) -> tuple[Plan, ...]:
        """A plan for each slot; its `detail` tells whether its pictures are padded.

        Raises:
            MediaError: for a picture so long and thin that it would become too large on the way.
        """
        padded = (options.family.get("image_aspect_ratio") or self.aspect) == "pad"
        for slot in slots:
            for size in slot.sizes:
                self.check_shape(size, padded)
        return tuple(Plan(self.tokens * len(s.images), (1,) * len(s.images), padded) for s in slots)

    def check_shape(self, size: Size, padded: bool) -> None:
        """Refuses pictures whose padded or resized form exceeds the limit on pixels."""
        width, height = (max(size), max(size)) if padded else self.fit(size)
        if width * height > MAX_PIXELS:
            why = f"{size[0]}x{size[1]} becomes {width}x{height} on the way, more than {MAX_PIXELS} pixels"
            raise MediaError("a picture", why, "make it smaller, or cut it")

    def fit(self, size: Size) -> Size:
        """(width, height) with the shorter side at `edge`, the other one rounded down."""
        width, height = size
        if width <= height:
            return self.edge, int(self.edge * height / width)
        return int(self.edge * width / height), self.edge

    def load(self, images: Sequence[PilImage.Image], plan: Plan) -> Mapping[str, torch.Tensor]:
        """`pixel_values` of a slot: (pictures, 3, crop, crop), uint8."""
        import torch

        return {"pixel_values": torch.stack([self.cut(image, plan.detail) for image in images])}

    def cut(self, image: PilImage.Image, padded: bool) -> torch.Tensor:
        """The square of one picture: (3, crop, crop), uint8."""
        import numpy
        import torch
        from PIL import Image as PilImage

        image = self.pad_square(image) if padded else image
        size = self.fit(image.size)
        if self.resample == PilImage.Resampling.BICUBIC:
            image = PilImage.fromarray(resize(image, [size])[0])
        else:
            image = image.resize(size, self.resample)
        left, top = (image.width - self.crop) // 2, (image.height - self.crop) // 2
        square = image.crop((left, top, left + self.crop, top + self.crop))
        return torch.from_numpy(numpy.asarray(square).transpose(2, 0, 1).copy())

    def normalise(self, pixels: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Bytes to float32: scaled, less the mean, over the deviation, in the release's order."""
        import torch

        def one(squares: torch.Tensor) -> torch.Tensor:
            mean, deviation = (
                torch.tensor(values, device=squares.device).view(3, 1, 1) for values in (self.mean, self.deviation)
            )
            return squares.float().mul_(self.scale).sub_(mean).div_(deviation)

        return {name: one(squares) for name, squares in pixels.items()}

    def pad_square(self, image: PilImage.Image) -> PilImage.Image:
        """A picture in the middle of a square of the mean colour; an odd line goes to the bottom or right."""
        from PIL import Image as PilImage

        if image.width == image.height:
            return image
        edge = max(image.size)
        square = PilImage.new("RGB", (edge, edge), tuple(int(mean * 255) for mean in self.mean))
        square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
        return square


def _side(size: Any, name: str) -> int:
    """A length of the preprocessor's configuration, whose older files have a number alone."""
    return int(size[name] if isinstance(size, Mapping) else size)
