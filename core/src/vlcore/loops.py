"""The loops of `resample`, compiled by numba (extra `fast`) when they first run; importing this needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy

from vlcore.resample import DIGITS

#: Rows worked on at once: their bytes fill whole vectors, and the rows stay in a core's own memory.
ROWS = 32


def compile_loop(loop: Callable[..., None]) -> Any:
    """A loop compiled, and kept for later processes where there is a folder to keep it in."""
    try:
        return numba.njit(cache=True, nogil=True)(loop)
    except RuntimeError:
        return numba.njit(nogil=True)(loop)


@compile_loop
def blend_rows(source: Any, first: Any, count: Any, factors: Any, result: Any) -> None:
    """Resizes up to `ROWS` rows of RGB: (rows, width, 3) to (rows, new width, 3).

    The rows are turned so that a pixel's place in all of them lies side by side: what is done to one row is then
    done to all of them by the same instructions.
    """
    rows, width = source.shape[0], source.shape[1]
    turned = numpy.zeros((width, 3 * ROWS), numpy.uint8)
    total, rounded = numpy.empty(3 * ROWS, numpy.int32), numpy.empty(3 * ROWS, numpy.uint8)
    for row in range(rows):
        for x in range(width):
            for channel in range(3):
                turned[x, channel * ROWS + row] = source[row, x, channel]
    for x in range(len(first)):
        total[:] = 1 << (DIGITS - 1)
        for tap in range(count[x]):
            factor, bytes_ = factors[x, tap], turned[first[x] + tap]
            for lane in range(3 * ROWS):
                total[lane] += bytes_[lane] * factor
        for lane in range(3 * ROWS):
            rounded[lane] = min(max(total[lane] >> DIGITS, 0), 255)
        for row in range(rows):
            for channel in range(3):
                result[row, x, channel] = rounded[channel * ROWS + row]


@compile_loop
def blend_columns(source: Any, start: int, first: Any, count: Any, factors: Any, result: Any) -> None:
    """Resizes columns: (height, values) from `start` on to (new height, values of the result)."""
    values = result.shape[1]
    total = numpy.empty(values, numpy.int32)
    for y in range(len(first)):
        total[:] = 1 << (DIGITS - 1)
        for tap in range(count[y]):
            factor, bytes_ = factors[y, tap], source[first[y] + tap, start : start + values]
            for at in range(values):
                total[at] += bytes_[at] * factor
        for at in range(values):
            result[y, at] = min(max(total[at] >> DIGITS, 0), 255)
