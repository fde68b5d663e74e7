"""Where the rows of a file begin and end: found once, so that a row can be read without those before it."""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from vlcore.dataset.cache import SMALL, digest_file, make_key, read_arrays, write_arrays
from vlcore.errors import DataError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

_CHUNK = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_SPACE = re.compile(r"[ \t\r\n]*")
#: Bytes at the end of what was read in which a token may have been cut.
_TAIL = 16


@dataclass(frozen=True, slots=True)
class Index:
    """The rows of a file, all arrays of shape (rows,).

    Attributes:
        starts: byte at which a row begins.
        ends: byte behind its last one.
        lines: line it begins in, counted from 1.
        digest: SHA-256 of the whole file.
    """

    starts: NDArray[numpy.uint64]
    ends: NDArray[numpy.uint64]
    lines: NDArray[numpy.uint64]
    digest: str

    def __len__(self) -> int:
        return len(self.starts)


def open_index(path: Path) -> Index:
    """The index of a `.json` file (one list) or a `.jsonl` file (a row a line, blank lines ignored).

    That of a large file is kept (`vlcore.dataset.cache`). Rows themselves are not looked at in `.jsonl`; in
    `.json`, where a fault hides whatever comes behind it, all must be JSON.

    Raises:
        DataError: for a file that is empty, no text in UTF-8, or no list; with the line where there is one.
    """
    digest = digest_file(path)
    large, key = path.stat().st_size >= SMALL, make_key(digest, path.suffix.lower(), 1)
    arrays = read_arrays(path, "index", key) if large else None
    if arrays is None or set(arrays) != {"starts", "ends", "lines"}:
        arrays = _scan(path)
        if large:
            write_arrays(path, "index", key, arrays)
    if not len(arrays["starts"]):
        raise DataError(str(path), "it holds no rows", "give a file with at least one row")
    return Index(digest=digest, **arrays)


def explain_json(error: JSONDecodeError) -> str:
    """What is wrong with a text as JSON; commas before a closing bracket are named."""
    # The documents people copy from have such commas; Python before 3.13 does not name them.
    around = re.compile(r",?\s*[\]}]").match(error.doc, len(error.doc[: error.pos].rstrip()) - 1)
    return "a comma before a closing bracket" if around and around[0][0] == "," else error.msg


def _scan(path: Path) -> dict[str, NDArray[numpy.uint64]]:
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
            raise DataError(str(path), "it is not UTF-8 text", "save it as UTF-8")
        start = len(_BOM) if head.startswith(_BOM) else 0
        file.seek(start)
        return _scan_list(file, start, path) if path.suffix.lower() == ".json" else _scan_lines(file, start)


def _scan_lines(file: BinaryIO, start: int) -> dict[str, NDArray[numpy.uint64]]:
    import numpy

    starts, blank, before, at = [], [], b"\n", start
    while chunk := file.read(_CHUNK):
        # A line begins behind each newline: the byte before its first one.
        found = numpy.flatnonzero(numpy.frombuffer(before + chunk[:-1], numpy.uint8) == ord("\n"))
        first = numpy.frombuffer(chunk, numpy.uint8)[found]
        starts.append(found.astype(numpy.uint64) + numpy.uint64(at))
        blank.append(numpy.isin(first, numpy.frombuffer(_BLANK, numpy.uint8)))
        before, at = chunk[-1:], at + len(chunk)
    begins = numpy.concatenate(starts) if starts else numpy.empty(0, numpy.uint64)
    ends = numpy.append(begins[1:], numpy.uint64(at))[: len(begins)]
    kept = numpy.ones(len(begins), bool)
    for line in numpy.flatnonzero(numpy.concatenate(blank)) if blank else ():
        file.seek(int(begins[line]))
        kept[line] = bool(file.read(int(ends[line] - begins[line])).strip(_BLANK))
    lines = numpy.flatnonzero(kept).astype(numpy.uint64) + numpy.uint64(1)
    return {"starts": begins[kept], "ends": ends[kept], "lines": lines}


def _scan_list(file: BinaryIO, start: int, path: Path) -> dict[str, NDArray[numpy.uint64]]:
    import numpy

    found = [array("Q"), array("Q"), array("Q")]
    window = _Window(file, start)
    try:
        for place in _find_elements(window, path):
            for column, value in zip(found, place, strict=True):
                column.append(value)
    except JSONDecodeError as error:
        line, column_of = window.line + error.lineno - 1, window.describe_column(error)
        raise DataError(f"{path}:{line}", f"it is not JSON ({explain_json(error)}, {column_of})",
                        "correct the file there") from error
    except RecursionError as error:
        raise DataError(f"{path}:{window.line_of(window.at)}", "it is nested too deeply", "give flat rows") from error
    names = ("starts", "ends", "lines")
    return {name: numpy.frombuffer(column, numpy.uint64) if column else numpy.empty(0, numpy.uint64)
            for name, column in zip(names, found, strict=True)}


class _Window:
    """A part of a file as text of one character a byte: JSON's own signs are ASCII, so nothing else matters.

    Attributes:
        text: what has been read and not been dropped.
        start: byte of the file at which it begins, and the `line` there.
        at: where reading stands in it.
        ended: whether the file has no more.
    """

    def __init__(self, file: BinaryIO, start: int) -> None:
        self._file, self.start, self.line = file, start, 1
        self.text, self.at, self.ended = "", 0, False
        self._seen, self._line = 0, 1
        self._whole = True

    def grow(self) -> None:
        """Reads on: as much again, so that a long element is not begun too often."""
        more = self._file.read(max(_CHUNK, len(self.text)))
        self.text, self.ended = self.text + more.decode("latin-1"), not more

    def peek(self) -> str:
        """The next sign behind white space; empty at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.grow()

    def line_of(self, at: int) -> int:
        """The line of a place that is not before the last one asked for."""
        self._line, self._seen = self._line + self.text.count("\n", self._seen, at), at
        return self._line

    def drop(self) -> None:
        """Forgets what has been read, once there is much of it."""
        if self.at > _CHUNK:
            self.line = self.line_of(self.at)
            self._whole = self._whole and self.text[self.at - 1] == "\n"
            self.start, self.text, self.at, self._seen = self.start + self.at, self.text[self.at :], 0, 0

    def describe_column(self, error: JSONDecodeError) -> str:
        """Where in its line an error is; the byte of the file, when the beginning of the line was dropped."""
        if error.lineno == 1 and self.start > len(_BOM) and not self._whole:
            return f"byte {self.start + error.pos}"
        before = error.doc[error.pos - error.colno + 1 : error.pos]
        return f"column {len(before.encode('latin-1').decode('utf-8', 'replace')) + 1}"


def _find_elements(window: _Window, path: Path) -> Iterator[tuple[int, int, int]]:
    """Start, end and line of each element of a list."""
    # Numbers of any length pass: how they are read is a matter of their row.
    decoder = JSONDecoder(parse_int=len)
    if window.peek() != "[":
        raise DataError(str(path), "it is not a list",
                        "put the rows in [ ], or name it .jsonl if it has a row a line")
    window.at += 1
    closed = window.peek() == "]"
    while not closed:
        window.drop()
        line, end = window.line_of(window.at), _find_end(window, decoder)
        yield window.start + window.at, window.start + end, line
        window.at = end
        closed = window.peek() == "]"
        if not closed:
            _pass_comma(window)
    window.at += 1
    if window.peek():
        raise JSONDecodeError("Extra data", window.text, window.at)


def _find_end(window: _Window, decoder: JSONDecoder) -> int:
    while True:
        try:
            end = decoder.raw_decode(window.text, window.at)[1]
            if end < len(window.text) or window.ended:
                return end
        except JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos >= len(window.text) - _TAIL
            if window.ended or not cut:
                raise
        window.grow()


def _pass_comma(window: _Window) -> None:
    if window.peek() != ",":
        raise JSONDecodeError("Expecting ',' delimiter", window.text, window.at)
    window.at += 1
    if window.peek() == "]":
        raise JSONDecodeError("Expecting value", window.text, window.at)


def parse_row(raw: bytes) -> Any:
    """The value of a row's bytes.

    Raises:
        ValueError: saying what is wrong, when they are no JSON in UTF-8.
    """
    try:
        value = json.loads(raw.decode("utf-8"))
        if b"\\ud" in raw.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text ({error.reason}, byte {error.start + 1})") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a surrogate pair (\\ud800 to \\udfff), which is no character") from error
    except JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({explain_json(error)}, column {error.colno})") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        # Python refuses whole numbers of thousands of digits.
        raise ValueError("it holds a number of too many digits") from error
    return value
