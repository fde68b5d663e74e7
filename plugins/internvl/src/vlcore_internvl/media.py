"""Pictures to tiles: the grid from sizes alone, then pixels; and which frames of a video are taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Self

from vlcore.media import Plan, Size, Slot
from vlcore.messages import Image, Video
from vlcore.resample import resize
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions

from vlcore_internvl.family import NUM_SEGMENTS, is_first_generation
from vlcore_internvl.release import count_tile_tokens, tile_size

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray
    from PIL import Image as PilImage

#: ImageNet's, which the releases use whatever their preprocessor_config.json says.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: (columns, rows) of tiles.
Grid = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TileProcessor:
    """Cuts pictures into tiles as a release's configuration says.

    Attributes:
        tile: edge of a tile in pixels.
        tile_tokens: positions a tile takes in the prompt.
        image_token_id: the id at these positions.
        tiling: whether pictures are cut at all; otherwise each is one tile.
        thumbnail: whether a picture of several tiles is also given whole, last.
        min_num: fewest tiles of a picture.
        max_num: most tiles of a picture when answering.
        max_dynamic_patch: most tiles that the pictures of a training row share.
        pad2square: whether an uncut picture is padded to a square of the mean colour instead of squeezed.
    """

    tile: int
    tile_tokens: int
    image_token_id: int
    tiling: bool = True
    thumbnail: bool = True
    min_num: int = 1
    max_num: int = 12
    max_dynamic_patch: int = 12
    pad2square: bool = False

    @classmethod
    def read(cls, checkpoint: Checkpoint, image_token_id: int) -> Self:
        """The processor that a checkpoint's `config.json` asks for."""
        config = checkpoint.config
        return cls(
            tile=tile_size(config),
            tile_tokens=count_tile_tokens(config),
            image_token_id=image_token_id,
            tiling=bool(config.get("dynamic_image_size")),
            thumbnail=bool(config.get("use_thumbnail")),
            min_num=config.get("min_dynamic_patch") or 1,
            max_num=6 if is_first_generation(checkpoint.record) else 12,
            max_dynamic_patch=config.get("max_dynamic_patch") or 12,
            pad2square=bool(config.get("pad2square")),
        )

    def plan(self, slots: Sequence[Slot], options: EncodeOptions) -> tuple[Plan, ...]:
        """A plan for each slot; its `detail` is the grid of each picture. A frame is always one tile."""
        limit = self.limit_tiles(sum(len(slot.images) for slot in slots if not slot.frame), options)
        return tuple(self.plan_slot(slot, 1 if slot.frame else limit) for slot in slots)

    def limit_tiles(self, pictures: int, options: EncodeOptions) -> int:
        """Most tiles of one picture: `max_num` when given; in training the pictures of a row share theirs."""
        given = options.family.get("max_num")
        if given is not None:
            return int(given)
        if not options.train:
            return self.max_num
        shared = options.family.get("max_dynamic_patch")
        return max(1, int(self.max_dynamic_patch if shared is None else shared) // max(1, pictures))

    def plan_slot(self, slot: Slot, max_num: int) -> Plan:
        """The grids of a slot's pictures, and the tiles and positions they take."""
        grids = tuple(self.choose_grid(size, max_num) for size in slot.sizes)
        tiles = tuple(count_tiles(grid, self.thumbnail) for grid in grids)
        return Plan(self.tile_tokens * sum(tiles), tiles, grids)

    def choose_frames(self, count: int, fps: float, options: EncodeOptions) -> tuple[int, ...]:
        """Which frames of a video are taken: `num_segments` of them, in training in the middles of its stretches."""
        wanted = int(options.family.get("num_segments", NUM_SEGMENTS))
        return sample_training_frames(count, wanted) if options.train else sample_frames(count, fps, wanted)

    def list_smaller(
        self, media: Sequence[Image | Video], options: EncodeOptions
    ) -> Iterator[Mapping[str, Any]]:
        """First fewer tiles a picture, down from the limit of this conversation; then fewer frames a video."""
        pictures = sum(isinstance(medium, Image) for medium in media)
        fewest: dict[str, Any] = {}
        if pictures and self.tiling:
            for limit in range(self.limit_tiles(pictures, options) - 1, self.min_num - 1, -1):
                fewest = {"max_num": limit}
                yield fewest
        if any(isinstance(medium, Video) and not medium.frames for medium in media):
            for frames in range(int(options.family.get("num_segments", NUM_SEGMENTS)) - 1, 0, -1):
                yield {**fewest, "num_segments": frames}

    def choose_grid(self, size: Size, max_num: int) -> Grid:
        """The grid of one picture."""
        return choose_grid(size, self.tile, self.min_num, max_num) if self.tiling else (1, 1)

    def load(self, images: Sequence[PilImage.Image], plan: Plan) -> Mapping[str, torch.Tensor]:
        """`pixel_values` of a slot: (tiles, 3, tile, tile), uint8."""
        import torch

        tiles = torch.empty((sum(plan.tiles), 3, self.tile, self.tile), dtype=torch.uint8)
        ends = itertools.accumulate(plan.tiles)
        for image, grid, count, end in zip(images, plan.detail, plan.tiles, ends, strict=True):
            self.cut(image, grid, tiles[end - count : end].numpy())
        return {"pixel_values": tiles}

    def cut(self, image: PilImage.Image, grid: Grid, place: NDArray[numpy.uint8]) -> None:
        """Writes a picture's tiles, row by row, then its thumbnail: (tiles, 3, tile, tile)."""
        columns, rows = grid
        if self.pad2square and not self.tiling:
            image = pad_square(image)
        sizes = [(columns * self.tile, rows * self.tile), (self.tile, self.tile)]
        whole, *thumbnail = resize(image, sizes if len(place) > rows * columns else sizes[:1])
        cells = whole.reshape(rows, self.tile, columns, self.tile, 3).transpose(0, 2, 4, 1, 3)
        place[: rows * columns].reshape(rows, columns, 3, self.tile, self.tile)[:] = cells
        for small in thumbnail:
            place[-1] = small.transpose(2, 0, 1)

    def normalise(self, pixels: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Bytes to float32, normalised by the release's operations in their order."""
        return {name: normalise(tiles) for name, tiles in pixels.items()}


def normalise(tiles: torch.Tensor) -> torch.Tensor:
    """Bytes of RGB, (tiles, 3, height, width), to float32: divided by 255, less the mean, over the deviation.

    Divided by a tensor: CUDA would multiply by the reciprocal of a number, which rounds differently.
    """
    import torch

    full, mean, deviation = (
        torch.tensor(values, device=tiles.device).view(3, 1, 1) for values in ((255.0,) * 3, MEAN, DEVIATION)
    )
    return tiles.float().div_(full).sub_(mean).div_(deviation)


def count_tiles(grid: Grid, thumbnail: bool) -> int:
    """Tiles of a picture with its thumbnail, which a single tile does not get."""
    tiles = grid[0] * grid[1]
    return tiles + 1 if thumbnail and tiles > 1 else tiles


@cache
def list_grids(min_num: int, max_num: int) -> tuple[Grid, ...]:
    """All grids of `min_num` to `max_num` tiles, few tiles first.

    Grids of equal area stand in the order of a Python set filled as here: the release's order, which decides
    ties when `min_num` is above 1.
    """
    edge = range(1, max_num + 1)
    found = {
        (columns, rows)
        for n in range(min_num, max_num + 1)
        for columns in edge[:n]
        for rows in edge[:n]
        if min_num <= columns * rows <= max_num
    }
    return tuple(sorted(found, key=lambda grid: grid[0] * grid[1]))


@lru_cache(4096)
def choose_grid(size: Size, tile: int, min_num: int, max_num: int) -> Grid:
    """The grid whose shape is nearest to a picture's.

    Of grids equally near, a larger one is taken only when the picture has more than half the pixels that it
    would show. A picture of 800 x 800 with tiles of 448: 1x1, 2x2 and 3x3 are equally near. 2x2 shows 802,816
    pixels and half of that is less than 640,000, so it is taken; 3x3 shows 1,806,336 and half of that is
    more, so it is not.

    >>> choose_grid((800, 800), 448, 1, 12), choose_grid((4000, 3000), 448, 1, 12)
    ((2, 2), (4, 3))
    """
    width, height = size
    shape, nearest, best = width / height, float("inf"), (1, 1)
    for columns, rows in list_grids(min_num, max_num):
        distance = abs(shape - columns / rows)
        if distance < nearest or (distance == nearest and width * height > 0.5 * tile**2 * columns * rows):
            nearest, best = distance, (columns, rows)
    return best


def pad_square(image: PilImage.Image) -> PilImage.Image:
    """A picture in the middle of a square of the mean colour."""
    from PIL import Image as PilImage

    edge = max(image.size)
    square = PilImage.new("RGB", (edge, edge), tuple(int(mean * 255) for mean in MEAN))
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    return square


def sample_frames(
    count: int, fps: float, wanted: int, bound: tuple[float, float] | None = None
) -> tuple[int, ...]:
    """Frames to ask about: the middles of equal stretches of a video, as the model cards take them.

    Args:
        count: frames in the video.
        fps: frames a second; only a bound needs it.
        wanted: how many frames to take; in a short video some are taken twice.
        bound: (start, end) in seconds.

    >>> sample_frames(300, 30.0, 8)
    (18, 55, 93, 130, 168, 205, 242, 280)
    """
    last = count - 1
    start, end = (max(0, round(bound[0] * fps)), min(round(bound[1] * fps), last)) if bound else (0, last)
    step = (end - start) / wanted
    return tuple(int(start + step / 2 + round(step * k)) for k in range(wanted))


def sample_training_frames(count: int, wanted: int) -> tuple[int, ...]:
    """Frames to train on: the middles of whole-numbered stretches; a short video's last frame is repeated.

    >>> sample_training_frames(5, 8)
    (0, 1, 2, 3, 4, 4, 4, 4)
    """
    taken = min(wanted, count)
    borders = [int(count * k / taken) for k in range(taken + 1)]
    middles = [(start + end - 1) // 2 for start, end in itertools.pairwise(borders)]
    return tuple(middles + middles[-1:] * (wanted - taken))
