"""Sound rows in one form, and the others beside with what is wrong with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vlcore.dataset import Position, Row, Rows, write_row
from vlcore.doctor.check import Report
from vlcore.errors import DataError, UsageError
from vlcore.messages import Image, Message, Part, Video


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows are written: the sound ones, the others, and media that only a table held."""

    sound: Path

    @property
    def faults(self) -> Path:
        """The file of rows with faults."""
        return self.sound.with_suffix(".faults.jsonl")

    @property
    def media(self) -> Path:
        """The folder of media that had no file."""
        return self.sound.with_suffix(".media").absolute()


def choose_target(path: Path, rows: Rows, overwrite: bool) -> Target:
    """Where to write.

    Raises:
        UsageError: for a name that is not .jsonl, a file that is there, or one that is read.
    """
    target = Target(path)
    if path.suffix.lower() != ".jsonl":
        raise UsageError(f"fix {path}", "rows are written as jsonl", "give a name such as clean.jsonl")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"fix {path}", f"there is no folder {path.parent}", "make it first")
    read = {Path(rows.locate(int(index)).source).resolve() for index in _first_rows(rows)}
    for file in (target.sound, target.faults):
        if file.resolve() in read:
            raise UsageError(f"fix {path}", f"{file} is one of the files that are read", "give another name")
        if file.exists() and not overwrite:
            raise UsageError(f"fix {path}", f"{file} is there already", "give another name, or --overwrite")
    return target


def write_fixed(rows: Rows, report: Report, target: Target) -> None:
    """Writes the sound rows, as often as they are there, and each other record once with its reasons."""
    reasons: dict[tuple[str, int], list[str]] = {}
    for fault in report.faults:
        reasons.setdefault((fault.source, fault.line), []).append(
            f"{fault.field}: {fault.why}" if fault.field else fault.why)
    places = [rows.locate(index) for index in range(len(rows))]
    sound = (index for index, place in enumerate(places) if _key(place) not in reasons)
    _write(target.sound, (write_row(_keep_media(rows[index], target.media)) for index in sound))
    faulty = {_key(place): index for index, place in reversed(list(enumerate(places))) if _key(place) in reasons}
    if faulty:
        _write(target.faults, _list_faulty(rows, faulty, reasons))
    else:
        target.faults.unlink(missing_ok=True)


def _list_faulty(
    rows: Rows, faulty: dict[tuple[str, int], int], reasons: dict[tuple[str, int], list[str]]
) -> Iterator[dict[str, Any]]:
    @cache
    def read_lines(source: str) -> dict[int, str]:
        return _read_lines(Path(source), {line for name, line in faulty if name == source})

    for (source, line), index in sorted(faulty.items(), key=lambda item: item[1]):
        number, record = rows.place(index)
        plain: dict[str, Any] = {"source": source, "line": line, "reasons": reasons[source, line]}
        try:
            yield {**plain, "record": rows.sources[number].records[record].data}
        except DataError:
            yield {**plain, "text": read_lines(source).get(line, "")}


def _read_lines(path: Path, wanted: Collection[int]) -> dict[int, str]:
    """Some lines of a file as text, for rows that are no JSON objects."""
    with path.open("rb") as file:
        return {number: raw.decode("utf8", "replace").rstrip("\r\n")
                for number, raw in enumerate(file, 1) if number in wanted}


def _keep_media(row: Row, folder: Path) -> Row:
    """The row with media that had no file written into a folder, named after their content."""

    def keep(part: Part) -> Part:
        if isinstance(part, Video) and part.frames:
            return replace(part, frames=tuple(Image(_keep_bytes(f.source, ".image", folder)) for f in part.frames))
        if isinstance(part, Image | Video):
            return replace(part, source=_keep_bytes(part.source, f".{type(part).__name__.lower()}", folder))
        return part

    messages: Sequence[Message] = [replace(m, content=tuple(map(keep, m.content))) for m in row.messages]
    return replace(row, messages=tuple(messages))


def _keep_bytes(source: Any, suffix: str, folder: Path) -> Any:
    if not isinstance(source, bytes):
        return source
    path = folder / (hashlib.sha256(source).hexdigest()[:24] + suffix)
    if not path.exists():
        folder.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(source)
        part.replace(path)
    return path


def _write(path: Path, values: Iterator[dict[str, Any]]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf8") as file:
            for value in values:
                file.write(json.dumps(value, ensure_ascii=False, default=_describe_bytes) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _describe_bytes(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes) else str(value)


def _key(place: Position) -> tuple[str, int]:
    return str(place.source), place.line


def _first_rows(rows: Rows) -> Any:
    """Indices of one row of each source."""
    import numpy

    return numpy.unique(rows.numbers, return_index=True)[1]
