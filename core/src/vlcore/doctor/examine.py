"""A pass over rows that needs no model: what they hold, whether their media can be opened, what is odd about them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlcore.dataset import Row, Rows
from vlcore.dataset.tally import Tally
from vlcore.doctor.findings import Finding, find, name_fault
from vlcore.errors import VlcoreError
from vlcore.media import Size, describe, open_image, read_size
from vlcore.messages import Image, Message, Text, Video
from vlcore.spread import spread
from vlcore.video import describe_video

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlcore.model import Frontend

#: What a row holds: whether it could be read, its questions, pictures, videos, and a digest of its content.
COUNTS = [("read", "?"), ("turns", "i4"), ("images", "i4"), ("videos", "i4"), ("digest", "u8")]
#: A picture this many times as long one way as the other is worth a look.
EXTREME = 20


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found in rows.

    Attributes:
        counts: as of `COUNTS`, of shape (rows,).
        faults: what is wrong with a row, by its index; rows in order.
        warnings: what is odd about a row, by its index; rows in order.
        tally: where media were put, and keys that nothing reads.
    """

    counts: NDArray[Any]
    faults: dict[int, list[Finding]] = field(default_factory=dict)
    warnings: dict[int, list[Finding]] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)


def examine_rows(rows: Rows, frontend: Frontend | None, decode: bool = False) -> Examined:
    """Reads all rows, opens the headers of their media, and looks for rows that are there twice.

    Args:
        rows: the rows, all different records.
        frontend: the model's, when lengths are taken as well: URLs and videos are then left to that.
        decode: whether every picture, and what a model takes of a video, is decoded whole.
    """
    import numpy

    result = Examined(numpy.zeros(len(rows), COUNTS))
    work = Examine(rows, frontend, decode)
    for indices, found in spread(work, numpy.arange(len(rows)), "rows"):  # type: ignore[arg-type]
        result.counts[indices] = found.counts
        result.faults.update(found.faults)
        result.warnings.update(found.warnings)
        result.tally.update(found.tally)
    for index, first in find_twins(result.counts).items():
        twin = find(rows.locate(index), "row", f"it is the same as {rows.locate(first)}", "leave one of them out")
        result.warnings.setdefault(index, []).append(twin)
    return result


def find_twins(counts: NDArray[Any]) -> dict[int, int]:
    """Rows with the content of an earlier one, and that one."""
    import numpy

    read = numpy.flatnonzero(counts["read"])
    _, first, which = numpy.unique(counts["digest"][read], return_index=True, return_inverse=True)
    earlier = read[first[which]]
    return {int(index): int(twin) for index, twin in zip(read, earlier, strict=True) if index != twin}


@dataclass(frozen=True)
class Examine:
    """The work of one process: indices of rows to what is found in them."""

    rows: Rows
    frontend: Frontend | None
    decode: bool

    def __call__(self, indices: Sequence[int]) -> tuple[Sequence[int], Examined]:
        """What is found in some rows; counts in the order of the indices."""
        import numpy

        found = Examined(numpy.zeros(len(indices), COUNTS))
        for at, index in enumerate(map(int, indices)):
            try:
                row = self.rows[index]
            except VlcoreError as error:
                found.faults[index] = [name_fault(self.rows.locate(index), error)]
                continue
            found.counts[at] = count_row(row)
            found.tally.add(row)
            faults, sizes = self.open_media(row)
            warnings = [*find_empty(row), *find_extreme(row, sizes)]
            found.faults.update({index: faults} if faults else {})
            found.warnings.update({index: warnings} if warnings else {})
        return indices, found

    def open_media(self, row: Row) -> tuple[list[Finding], dict[str, Size]]:
        """What is wrong with a row's media, and the sizes of its pictures by name."""
        faults: list[Finding] = []
        sizes: dict[str, Size] = {}
        for medium in (medium for message in row.messages for medium in message.media):
            try:
                if isinstance(medium, Video):
                    self.open_video(medium)
                elif size := self.open_image(medium):
                    sizes[describe(medium)] = size
            except VlcoreError as error:
                faults.append(name_fault(row, error))
        return faults, sizes

    def open_image(self, image: Image) -> Size | None:
        """The size of a picture; None for one that is left to the forecast."""
        if self.decode:
            return open_image(image).size
        left = self.frontend and isinstance(image.source, str) and image.source.startswith(("http://", "https://"))
        return None if left else read_size(image)

    def open_video(self, video: Video) -> None:
        """Opens a video as far as is asked for, for its faults alone."""
        for frame in video.frames:
            self.open_image(frame)
        if self.frontend and self.decode:
            for message in self.frontend.fetch([Message("user", (video,))], train=True):
                for frame in (frame for film in message.media if isinstance(film, Video) for frame in film.frames):
                    open_image(frame)
        elif not self.frontend and not video.frames:
            describe_video(video)


def count_row(row: Row) -> tuple[bool, int, int, int, int]:
    """A row's line of `COUNTS`."""
    media = [medium for message in row.messages for medium in message.media]
    images = sum(isinstance(medium, Image) for medium in media)
    turns = sum(message.role == "user" for message in row.messages)
    return True, turns, images, len(media) - images, digest_messages(row.messages)


def digest_messages(messages: Sequence[Message]) -> int:
    """A number that is the same for conversations of the same texts, media and losses, and hardly for others."""
    digest = hashlib.blake2b(digest_size=8)
    for message in messages:
        digest.update(f"\1{message.role}{message.trained}".encode())
        for part in message.content:
            digest.update(f"\2{type(part).__name__}\3".encode())
            for source in _list_content(part):
                digest.update(source if isinstance(source, bytes) else str(source).encode("utf8", "surrogateescape"))
    return int.from_bytes(digest.digest(), "little")


def _list_content(part: Text | Image | Video) -> Iterator[Any]:
    if isinstance(part, Text):
        yield part.text
    elif isinstance(part, Video) and part.source is None:
        yield from (frame.source for frame in part.frames)
    else:
        yield part.source


def find_empty(row: Row) -> Iterator[Finding]:
    """Answers that count in the loss and say nothing."""
    answers = [message for message in row.messages if message.role == "assistant"]
    for number, message in enumerate(answers, 1):
        if message.trained and not message.text.strip():
            yield find(row, f"answer {number}", "it is empty", "give one, or leave the row out")


def find_extreme(row: Row, sizes: Mapping[str, Size]) -> Iterator[Finding]:
    """Pictures that are far longer one way than the other."""
    for name, (width, height) in sizes.items():
        if max(width, height) > EXTREME * min(width, height):
            yield find(row, name, f"it is {width}x{height} pixels", "check that such a strip is meant")
