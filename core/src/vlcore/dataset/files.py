"""A data file becomes records: a position, and the JSON object that begins there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from vlcore.dataset.row import Position
from vlcore.errors import DataError, UsageError, suggest_near

SUFFIXES = (".json", ".jsonl")
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Record:
    """A row as the file has it, fields that are null left out."""

    position: Position
    data: dict[str, Any]


def split_source(source: str) -> tuple[Path, int | None]:
    """The file of a source, and how many rows to sample of it.

    `a.jsonl#200` is 200 rows of `a.jsonl`, unless there is a file of that whole name.

    Raises:
        UsageError: when it is no data file, or the number is 0.
    """
    name, sign, number = source.rpartition("#")
    if not (sign and number.isdecimal()) or Path(source).is_file():
        return _find_file(source), None
    if int(number) == 0:
        raise UsageError(source, "#0 samples no row", "write #N with N of at least 1, or leave it out")
    return _find_file(name), int(number)


def read_records(path: Path) -> list[Record]:
    """The records of a `.json` file (one list) or a `.jsonl` file (an object a line, blank lines ignored).

    Raises:
        DataError: for a file that is empty, not UTF-8 or not JSON, naming the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(str(path), f"it is not UTF-8 text ({error.reason})", "save it as UTF-8") from error
    values = _split_list(text, path) if path.suffix.lower() == ".json" else _split_lines(text, path)
    records = [_make_record(Position(source=path, line=line), value) for line, value in values]
    if not records:
        raise DataError(str(path), "it holds no rows", "give a file with at least one row")
    return records


def _find_file(name: str) -> Path:
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"dataset {name}", "it is neither a .json or .jsonl file nor a registered name",
                         "give the path of a .json or .jsonl file")
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.json*")] if path.parent.is_dir() else []
        raise UsageError(f"dataset {name}", "there is no such file",
                         suggest_near(str(path), near) if near else "check the path")
    return path


def _make_record(position: Position, value: Any) -> Record:
    if not isinstance(value, dict):
        what = f"it is {_name_type(value)}, not an object"
        raise position.fault("row", what, 'write {"query": ..., "response": ...}')
    return Record(position, {key: item for key, item in value.items() if item is not None})


def _split_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except JSONDecodeError as error:
                raise _explain(error, path, number, "write one JSON object a line") from error


def _split_list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON list, each with the line it begins in; decoded one by one to know it."""
    decoder = JSONDecoder()
    at, line, seen = _skip(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise DataError(str(path), "it is not a list",
                        "put the rows in [ ], or name it .jsonl if it has a row a line")
    at = _skip(text, at + 1)
    try:
        while text[at : at + 1] != "]":
            line, seen = line + text.count("\n", seen, at), at
            value, end = decoder.raw_decode(text, at)
            yield line, value
            at = _next_element(text, _skip(text, end))
        if rest := text[_skip(text, at + 1) :]:
            raise JSONDecodeError("Extra data", text, len(text) - len(rest))
    except JSONDecodeError as error:
        raise _explain(error, path, error.lineno, "correct the file there") from error


def _next_element(text: str, at: int) -> int:
    if text[at : at + 1] == "]":
        return at
    if text[at : at + 1] != ",":
        raise JSONDecodeError("Expecting ',' delimiter", text, at)
    following = _skip(text, at + 1)
    if text[following : following + 1] == "]":
        raise JSONDecodeError("Expecting value", text, following)
    return following


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _explain(error: JSONDecodeError, path: Path, line: int, do: str) -> DataError:
    # The documents people copy from have such commas; Python before 3.13 does not name them.
    around = re.compile(r",?\s*[\]}]").match(error.doc, len(error.doc[: error.pos].rstrip()) - 1)
    reason = "a comma before a closing bracket" if around and around[0][0] == "," else error.msg
    return DataError(f"{path}:{line}", f"it is not JSON ({reason}, column {error.colno})", do)


def _name_type(value: Any) -> str:
    names = {str: "a text", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")
