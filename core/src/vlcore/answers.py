"""The answers to a data set on disk: a JSON line a row, none lost and none there twice whenever a run is killed.

Each process of a run appends to a file of its own, `NAME.part` and, of the others, `NAME.part.1` and so on; a batch is
one write and is on the disk when the next one begins. At the end `NAME` is written in the order of the rows, beside and
renamed. `NAME.settings.json` (without the ending of NAME) says how the answers were made, for a run that goes on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vlcore.errors import DataError, UsageError

#: One result: `key` of its row, `response` or `error`, and what the row is.
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """A line on the disk.

    Attributes:
        path: its file.
        at: the byte it begins at.
        answered: whether it holds an answer, not an error.
    """

    path: Path
    at: int
    answered: bool

    def read(self) -> Line:
        """The line."""
        with self.path.open("rb") as file:
            file.seek(self.at)
            line: Line = json.loads(file.readline())
        return line


def name_part(path: Path, rank: int = 0) -> Path:
    """The file that a process appends to.

    >>> name_part(Path("a.jsonl")).name, name_part(Path("a.jsonl"), 1).name
    ('a.jsonl.part', 'a.jsonl.part.1')
    """
    return path.with_name(f"{path.name}.part" + (f".{rank}" if rank else ""))


def name_settings(path: Path) -> Path:
    """The file that says how a file of answers was made."""
    return path.with_suffix(".settings.json")


def list_parts(path: Path) -> list[Path]:
    """The files that processes have appended to."""
    pattern = re.compile(re.escape(path.name) + r"\.part(\.\d+)?")
    return sorted(file for file in path.parent.glob("*.part*") if pattern.fullmatch(file.name))


@contextmanager
def open_part(path: Path, rank: int = 0) -> Iterator[BinaryIO]:
    """The file that this process appends to, held against other runs; one that stays empty is removed.

    Raises:
        UsageError: when a process of another run is writing it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = name_part(path, rank)
    with part.open("ab", buffering=0) as file:
        lock(file, part)
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)


def lock(file: BinaryIO, path: Path) -> None:
    """Holds a file until it is closed; the end of a process, however it comes, closes it."""
    if os.name != "posix":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        do = "wait for it, end it, or give another --result_path"
        raise UsageError(f"file {path}", "another run is writing it", do) from error


def append(file: BinaryIO, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes lines at once and waits until the disk has them."""
    # A process that is killed within a write may leave half a line; nothing before it is touched.
    data = b"".join(map(write_line, lines))
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def write_line(line: Mapping[str, Any]) -> bytes:
    """A line's bytes; what no encoding has a sign for becomes an escape of JSON."""
    return (json.dumps(line, ensure_ascii=False) + "\n").encode("utf8", "backslashreplace")


def read_kept(path: Path, held: Path | None = None) -> dict[str, Kept]:
    """The lines that earlier runs left, by the keys of their rows; an answer goes before an error, late before early.

    Half a line at the end of a part is cut off.

    Args:
        path: the file of answers, which may be there or not.
        held: a part that this process holds already.

    Raises:
        DataError: for a line that is none.
        UsageError: when another run is writing.
    """
    kept: dict[str, Kept] = {}
    for file in [path, *list_parts(path)] if path.exists() else list_parts(path):
        whole = 0
        for at, end, line in read_lines(file):
            found, whole = Kept(file, at, "error" not in line), end
            before = kept.get(line["key"])
            if before is None or found.answered or not before.answered:
                kept[line["key"]] = found
        if file != path and whole < file.stat().st_size:
            with file.open("r+b") as torn:
                if file != held:
                    lock(torn, file)
                torn.truncate(whole)
    return kept


def read_lines(path: Path) -> Iterator[tuple[int, int, Line]]:
    """The whole lines of a file, with the bytes they begin and end at.

    Raises:
        DataError: for a line that is none.
    """
    at = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                return
            try:
                line = json.loads(raw)
                line["key"]  # what is no result of vlcore infer has none
            except (ValueError, TypeError, KeyError) as error:
                do = "take the line out, or give another --result_path"
                raise DataError(f"{path}:{number}", "it is no answer of vlcore infer", do) from error
            yield at, at + len(raw), line
            at += len(raw)


def write_answers(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes all lines beside a path, renames the file into place, and removes the parts."""
    new = path.with_name(f".{path.name}.new")
    with new.open("wb") as file:
        file.writelines(map(write_line, lines))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    for part in list_parts(path):
        part.unlink()


def check_settings(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings file beside earlier answers says.

    Raises:
        UsageError: when they were made in another way, so that answers of two kinds would lie in one file.
    """
    file = name_settings(path)
    try:
        said: dict[str, Any] = json.loads(file.read_text("utf8"))
    except (OSError, ValueError) as error:
        why = f"{file.name} does not say how its answers were made"
        raise UsageError(f"resume {path}", why, "give another --result_path") from error
    differing = [name for name in settings if said.get(name) != settings[name]]
    if differing:
        named = ", ".join(f"{name} {said.get(name)!r}, now {settings[name]!r}" for name in differing)
        raise UsageError(f"resume {path}", f"its answers were made with {named}",
                         "give the same settings, or another --result_path")
    return said


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes how answers are made beside them, renamed into place."""
    file = name_settings(path)
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf8")
    new.replace(file)
