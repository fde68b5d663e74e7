"""A talk written down as a row to train on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Part, Text, Video, write_message

#: Where media came from that have been fetched, by their bytes.
Origins = Mapping[bytes, str]


def append_row(path: Path, messages: Sequence[Message], origins: Origins | None = None) -> int:
    """Writes a conversation behind the rows of a JSON Lines file, which is made when it is not there.

    Media stand in it as absolute paths or as URLs; what was given as bytes becomes a data URL.

    Args:
        path: the file.
        messages: the conversation, ending with an answer.
        origins: URLs of media that have been fetched.

    Returns:
        The number of rows in the file now.

    Raises:
        UsageError: for a conversation without an answer, a name that does not end in `.jsonl`, or a file that
            holds something else or cannot be written.
    """
    if path.suffix != ".jsonl":
        raise UsageError(f"save {path}", "a talk is a line of a file of rows", "give a name that ends in .jsonl")
    if not messages or messages[-1].role != "assistant":
        raise UsageError(f"save {path}", "nothing has been answered yet", "ask something first")
    row = {"messages": [write_message(_place(message, origins or {})) for message in messages]}
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        held = path.read_bytes() if path.exists() else b""
        if held.strip() and not held.lstrip().startswith(b"{"):
            raise UsageError(f"save {path}", "the file holds no rows", "give another name")
        with path.open("ab") as file:
            file.write((b"" if held[-1:] in (b"", b"\n") else b"\n") + line.encode("utf8", "surrogatepass"))
    except OSError as error:
        raise UsageError(f"save {path}", f"it cannot be written ({error.strerror})", "give another name") from error
    return sum(1 for found in held.splitlines() if found.strip()) + 1


def _place(message: Message, origins: Origins) -> Message:
    return replace(message, content=tuple(_place_part(part, origins) for part in message.content))


def _place_part(part: Part, origins: Origins) -> Part:
    if isinstance(part, Text):
        return part
    if isinstance(part, Video):
        frames = tuple(Image(_place_source(frame.source, origins)) for frame in part.frames)
        return Video(_place_source(part.source, origins), () if part.source is not None else frames)
    return Image(_place_source(part.source, origins))


def _place_source(source: Any, origins: Origins) -> Any:
    """An absolute path or a URL for a source."""
    if isinstance(source, bytes):
        return origins.get(source, source)
    if isinstance(source, Path) or (isinstance(source, str) and "://" not in source and not source.startswith("data:")):
        return str(Path(source).absolute())
    return source
