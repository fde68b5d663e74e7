"""Bicubic resizing with the bits of Pillow's: in compiled loops where numba is installed, else by Pillow itself.

Pillow resizes rows, rounds to bytes, then resizes columns, with weights in fixed point: whole numbers all the way,
so loops give its bits. Several sizes of a picture share the reading of its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from PIL import Image as PilImage

    from vlcore.media import Size

    Bytes = NDArray[numpy.uint8]

#: Binary digits behind the point of a weight, as in Pillow: sums of weighted bytes stay within 32 bits.
DIGITS = 22


@dataclass(frozen=True, slots=True)
class Weights:
    """What each pixel of a resized row or column is made of.

    Attributes:
        first: the first pixel it takes, (pixels,).
        count: how many it takes from there, (pixels,).
        factors: their weights in fixed point, (pixels, taps), 0 behind the count.
    """

    first: NDArray[numpy.int64]
    count: NDArray[numpy.int64]
    factors: NDArray[numpy.int32]


def resize(picture: PilImage.Image, sizes: Sequence[Size]) -> tuple[Bytes, ...]:
    """A picture at other sizes, its shape not kept, by Pillow's bicubic on bytes.

    Args:
        picture: in RGB.
        sizes: (width, height) of each result.

    Returns:
        Arrays of (height, width, 3), uint8, perhaps read-only.
    """
    import numpy
    from PIL import Image as PilImage

    looped = [size for size in sizes if takes_rows_first(picture.size, size)] if has_loops() else []
    found = dict(zip(looped, _blend(picture, looped), strict=True))
    bicubic = PilImage.Resampling.BICUBIC
    return tuple(found[size] if size in found else numpy.asarray(picture.resize(size, bicubic)) for size in sizes)


def takes_rows_first(given: Size, wanted: Size) -> bool:
    """Whether Pillow surely resizes rows first, which decides what is rounded.

    Since version 13 it may begin with the columns where they shrink by more than twice as many pixels, and 12.2 did
    in pictures a hundred times as high as wide.

    >>> takes_rows_first((640, 427), (1344, 896)), takes_rows_first((427, 640), (448, 448))
    (True, False)
    """
    (width, height), (new_width, new_height) = given, wanted
    shrinks_down = height > new_height and height - new_height > 2 * (width - new_width)
    return not shrinks_down and height <= 100 * width


@cache
def has_loops() -> bool:
    """Whether numba is installed and fits."""
    try:
        import vlcore.loops  # noqa: F401
    except ImportError:
        return False
    return True


def _blend(picture: PilImage.Image, sizes: Sequence[Size]) -> Iterator[Bytes]:
    """A picture at other sizes, by the loops."""
    import numpy

    if not sizes:
        return
    from vlcore.loops import ROWS, blend_columns, blend_rows

    across = join_weights([weigh(picture.width, width) for width, _ in sizes])
    middle = numpy.empty((picture.height, len(across.first), 3), numpy.uint8)
    for top in range(0, picture.height, ROWS):
        strip = picture.crop((0, top, picture.width, min(top + ROWS, picture.height)))
        blend_rows(numpy.asarray(strip), across.first, across.count, across.factors, middle[top : top + ROWS])
    start = 0
    for width, height in sizes:
        result = numpy.empty((height, width, 3), numpy.uint8)
        down = weigh(picture.height, height)
        flat = middle.reshape(picture.height, -1)
        blend_columns(flat, 3 * start, down.first, down.count, down.factors, result.reshape(height, -1))
        yield result
        start += width


@lru_cache(64)
def weigh(given: int, wanted: int) -> Weights:
    """Weights that make `wanted` pixels of `given` ones: Keys' cubic with a = -0.5, widened when there are fewer.

    Computed in Pillow's order of operations, since a sum in another order may end in another last digit.

    >>> weigh(2, 1).count.tolist(), weigh(2, 1).factors[0, :2].tolist(), 1 << 21
    ([2], [2097152, 2097152], 2097152)
    """
    import numpy

    scale = given / wanted
    widened = max(scale, 1.0)
    reach = 2.0 * widened
    center = (numpy.arange(wanted) + 0.5) * scale
    first = numpy.maximum((center - reach + 0.5).astype(numpy.int64), 0)
    count = numpy.minimum((center + reach + 0.5).astype(numpy.int64), given) - first
    taps = numpy.arange(int(numpy.ceil(reach)) * 2 + 1)
    x = numpy.abs((taps + first[:, None] - center[:, None] + 0.5) * (1.0 / widened))
    near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    curve = numpy.where(x < 1, near, numpy.where(x < 2, far, 0.0)) * (taps < count[:, None])
    exact = curve / curve.cumsum(axis=1)[:, -1:] * (1 << DIGITS)
    return Weights(first, count, (exact + numpy.copysign(0.5, exact)).astype(numpy.int32))


def join_weights(parts: Sequence[Weights]) -> Weights:
    """Weights of several results beside each other."""
    import numpy

    taps = max(part.factors.shape[1] for part in parts)
    factors = [numpy.pad(part.factors, ((0, 0), (0, taps - part.factors.shape[1]))) for part in parts]
    return Weights(
        numpy.concatenate([part.first for part in parts]), numpy.concatenate([part.count for part in parts]),
        numpy.concatenate(factors),
    )
