"""A data file as records: a position, and the JSON object that begins there, read when it is asked for."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcore.dataset.index import open_index, parse_row
from vlcore.dataset.row import Position
from vlcore.errors import DataError

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class Record:
    """A row as the file has it, fields that are null left out."""

    position: Position
    data: dict[str, Any]


class FileRecords:
    """The records of a `.json` or `.jsonl` file. Each process opens the file for itself.

    Args:
        path: the file.
        name: what the user typed for it.

    Raises:
        DataError: when the file as a whole cannot be read.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name or str(path)
        self._state = _stat(path.stat())
        self._index = open_index(path)
        self._handle = -1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return self._index.digest

    def __len__(self) -> int:
        return len(self._index)

    def locate(self, index: int) -> Position:
        """File and line of a record."""
        return Position(source=self.path, line=int(self._index.lines[index]))

    def __getitem__(self, index: int) -> Record:
        """A record, read now.

        Raises:
            DataError: naming file and line, when it is no JSON object, or the file was changed since it was opened.
        """
        position, start, end = self.locate(index), int(self._index.starts[index]), int(self._index.ends[index])
        # pread has no place of its own, so processes and threads may share the handle.
        raw = os.pread(self._open(), end - start, start)
        try:
            value = parse_row(raw)
        except ValueError as error:
            raise DataError(str(position), str(error), _ADVICE[self.path.suffix.lower()]) from error
        return make_record(position, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": -1}

    def _open(self) -> int:
        if self._handle < 0:
            handle = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, handle)
            if _stat(os.fstat(handle)) != self._state:
                raise DataError(str(self.path), "it was changed after it was opened", "start again")
            self._handle = handle
        return self._handle


_ADVICE = {".json": "correct the file there", ".jsonl": "write one JSON object a line, in UTF-8"}


def make_record(position: Position, value: Any) -> Record:
    """A record from a value of a file.

    Raises:
        DataError: when it is no object.
    """
    if not isinstance(value, dict):
        what = f"it is {_name_type(value)}, not an object"
        raise position.fault("row", what, 'write {"query": ..., "response": ...}')
    return Record(position, {key: item for key, item in value.items() if item is not None})


def _stat(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _name_type(value: Any) -> str:
    names = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
