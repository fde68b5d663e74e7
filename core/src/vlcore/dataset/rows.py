"""Rows of one or several sources, each read when it is asked for; of a million rows only their places are kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, Self, overload

from vlcore.dataset.files import Record
from vlcore.dataset.forms import find_form, list_unread, read_row
from vlcore.dataset.row import Position, ReadOptions, Row

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Records(Protocol):
    """The records of a source by number, counted from 0. Must be picklable: workers get a copy."""

    @property
    def name(self) -> str:
        """What a user typed for it, without `#N`; the path of a file."""

    @property
    def fingerprint(self) -> str:
        """A digest of its content: another content has another one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """A record, read now.

        Raises:
            DataError: naming file and line, when it is not a JSON object.
        """

    def locate(self, index: int) -> Position:
        """Where a record stands, known without reading it."""


@dataclass(frozen=True, slots=True)
class Source:
    """Records, and how they become rows."""

    records: Records
    options: ReadOptions


class Rows(Sequence[Row]):
    """Rows in an order; a record may be there several times.

    Attributes:
        sources: where they come from.
    """

    def __init__(self, sources: Sequence[Source], numbers: ArrayLike, records: ArrayLike) -> None:
        """Keeps where each row is found.

        Args:
            sources: where the rows come from.
            numbers: of shape (rows,), the number of each row's source.
            records: of shape (rows,), the number of its record there.
        """
        import numpy

        self.sources = tuple(sources)
        self.numbers, self.records = numpy.asarray(numbers, numpy.uint32), numpy.asarray(records, numpy.int64)

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Row | Self:
        """A row, read now, or a part of them.

        Raises:
            DataError: for a row that cannot be read, naming file, line and field.
        """
        if isinstance(index, slice):
            return type(self)(self.sources, self.numbers[index], self.records[index])
        number, record = self.place(index)
        found, options = self.sources[number].records[record], self.sources[number].options
        row = read_row(found.data, found.position, options)
        unread = list_unread(found.data, find_form(found.data, found.position))
        return replace(row, unread=tuple(sorted(unread))) if unread else row

    def place(self, index: int) -> tuple[int, int]:
        """Number of the source and of the record of a row."""
        return int(self.numbers[index]), int(self.records[index])

    def locate(self, index: int) -> Position:
        """Where a row stands, known without reading it."""
        number, record = self.place(index)
        return self.sources[number].records.locate(record)

    def select(self, indices: Iterable[int]) -> Self:
        """Some of the rows, in the order of the indices; an array of them is quickest."""
        import numpy

        chosen = indices if isinstance(indices, numpy.ndarray) else numpy.fromiter(indices, numpy.int64)
        return type(self)(self.sources, self.numbers[chosen], self.records[chosen])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))
