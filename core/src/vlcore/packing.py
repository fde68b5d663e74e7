"""Rows of known lengths to packs that none overfills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlcore.errors import DataError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Packs(Sequence["NDArray[numpy.int64]"]):
    """Packs as arrays of row numbers, each row in one of them.

    Attributes:
        rows: numbers of all rows, pack after pack.
        starts: where each pack begins in `rows`, and where the last one ends.
        tokens: tokens of all rows.
        size: tokens a pack may hold.
    """

    rows: NDArray[numpy.int64]
    starts: NDArray[numpy.int64]
    tokens: int
    size: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> NDArray[numpy.int64]:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.rows[self.starts[index] : self.starts[index + 1]]

    @property
    def fill(self) -> float:
        """Part of the packs that rows fill."""
        return self.tokens / max(len(self) * self.size, 1)

    @property
    def summary(self) -> str:
        """One line for the log."""
        rows, packs = len(self.rows), len(self)
        return f"{rows} rows in {packs} packs of {self.size} tokens, {self.fill:.1%} full, {rows / packs:.1f} rows each"


def pack_rows(lengths: Sequence[int] | NDArray[numpy.integer], size: int, seed: int) -> Packs:
    """Packs by online best fit over the rows in random order: each row goes where it leaves the least space.

    The order is random so that packs are mixtures. Best fit over sorted rows fills a little better (99.97 % against
    99.5 % of packs of 2048 for 20,000 log-normal lengths), but then the length of a row decides its neighbours: of
    those packs, a fifth held short rows alone, here none. Rows are taken once; each costs a shift of `size` bits.

    Args:
        lengths: tokens of each row, at least one.
        size: tokens a pack may hold.
        seed: of the order; equal arguments give equal packs.

    Raises:
        DataError: for a row above `size`.
    """
    import numpy

    each = numpy.asarray(lengths, numpy.int64)
    too_long = numpy.flatnonzero(each > size)
    if len(too_long):
        raise DataError(f"row {too_long[0]} of {each[too_long[0]]} tokens", f"a pack holds {size}",
                        "raise --max_length, or leave the row out")
    order = numpy.random.default_rng(seed).permutation(len(each))
    packs = numpy.array(_choose_packs(each[order].tolist(), size), numpy.int64)
    starts = numpy.concatenate([[0], numpy.bincount(packs).cumsum()]) if len(packs) else numpy.zeros(1, numpy.int64)
    return Packs(order[numpy.argsort(packs, kind="stable")], starts, int(each.sum()), size)


def _choose_packs(lengths: Sequence[int], size: int) -> list[int]:
    """The pack of each row."""
    # Open packs by the space they have left. Bit n of `spaces` says that there are some with n: the least space that
    # is enough is then the lowest bit of a shifted number.
    waiting: list[list[int]] = [[] for _ in range(size)]
    spaces, count, chosen = 0, 0, []
    for length in lengths:
        enough = spaces >> length
        if enough:
            space = length + (enough & -enough).bit_length() - 1
            pack = waiting[space].pop()
            if not waiting[space]:
                spaces ^= 1 << space
        else:
            space, pack = size, count
            count += 1
        chosen.append(pack)
        left = space - length
        if left:
            if not waiting[left]:
                spaces |= 1 << left
            waiting[left].append(pack)
    return chosen
