"""Where a row's media are: lists and comma-separated texts, paths, URLs and data URLs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlcore.dataset.row import Site
from vlcore.errors import show

Kind = Literal["image", "video"]
#: Where one medium is, or its bytes; None for a turn without (`null` in a list).
Source = str | Path | bytes | None
_REMOTE = ("http://", "https://", "data:")


def list_media(data: Mapping[str, Any], kind: Kind, site: Site) -> list[Source]:
    """The media of a kind that stand beside a row's conversation: `images` or `image`, `videos` or `video`.

    A list, or one text. A text with commas is a list, unless it is a data URL, which holds a comma itself.
    """
    keys = [key for key in (kind + "s", kind) if key in data]
    if not keys:
        return []
    if len(keys) == 2:
        raise site.fault(" and ".join(keys), "both list media", "leave one of them out")
    key, value = keys[0], data[keys[0]]
    if isinstance(value, str):
        return [find_medium(text, key, site) for text in _split_commas(value)]
    if not isinstance(value, list):
        raise site.fault(key, "it is neither a list nor a text", "write a list of paths or URLs")
    return [None if item is None else find_medium(item, f"{key}[{i}]", site) for i, item in enumerate(value)]


def find_medium(source: Any, field: str, site: Site) -> str | Path | bytes:
    """Where a medium is: a URL or bytes as they are, else the absolute path below the image folder or the file's own.

    Raises:
        DataError: when it is no text, or names a local file that is missing.
    """
    if isinstance(source, bytes):  # tables hold pictures themselves
        return source
    if not isinstance(source, str) or not source.strip():
        raise site.fault(field, "it is not a path or URL", "write a path, a URL or a data URL in quotes")
    if source.startswith(_REMOTE):
        return source
    folder = site.options.image_folder
    path = (Path(folder or site.source.parent) / source.removeprefix("file://")).absolute()
    if site.options.check_media and not _exists(path):
        hint = "" if folder else ", or say with --image_folder where paths start"
        raise site.fault(field, f"there is no file {show(str(path))}", f"check the path{hint}")
    return path


def _split_commas(text: str) -> list[str]:
    pieces = [text] if text.startswith("data:") else text.split(",")
    return [piece.strip() for piece in pieces if piece.strip()]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, such as base64 without its data: head
        return False
