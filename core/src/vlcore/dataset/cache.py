"""What took long to learn about a data source, kept as arrays so that the next run reads it back.

A cache file is `.vlcore/NAME.KIND-KEY.npz` beside the source, or in the user's cache folder (`XDG_CACHE_HOME/vlcore`,
else `~/.cache/vlcore`) where the folder of the source cannot be written or the source is no path. The key is a
digest of everything the arrays depend on, the content of the source first of all, so a cache is never out of date;
one that is damaged counts as absent, and one that cannot be written costs time only. No pickle is read or written.

    digest = digest_file(path)                                # content of a file
    key = make_key(digest, tokenizer_digest, max_tiles=6)     # content, and what else the result depends on
    arrays = read_arrays(path, "forecast", key)               # None when there is none
    if arrays is None:
        arrays = {"text": ..., "media": ...}
        write_arrays(path, "forecast", key, arrays)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_log = logging.getLogger("vlcore")
#: Files below this many bytes are learnt anew each time: that is as fast, and leaves nothing behind.
SMALL = 8 * 1024 * 1024
#: How many caches of one kind are kept for one name; the oldest go first.
KEPT = 8


def digest_file(path: Path) -> str:
    """SHA-256 of a whole file, read in pieces, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_key(*parts: Any, **named: Any) -> str:
    """A digest of plain values (texts, numbers, lists, None), 32 characters.

    >>> make_key("a", 1) == make_key("a", 1), make_key("a", 1) == make_key("a", 2)
    (True, False)
    """
    text = json.dumps([parts, named], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def read_arrays(source: str | Path, kind: str, key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays that were written for a source under a kind and a key; None when there are none or they are damaged.

    Args:
        source: file or folder they are about, or the name of a source that is neither.
        kind: what they hold, such as `index`.
        key: what they depend on, see `make_key`.
    """
    import numpy

    for path in list_places(source, kind, key):
        try:
            with path.open("rb") as file, numpy.load(file, allow_pickle=False) as found:
                return dict(found)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            _log.info("%s is damaged and is made anew (%s)", path, error)
    return None


def write_arrays(source: str | Path, kind: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> Path | None:
    """Keeps arrays for `read_arrays`, written beside and renamed; of one kind and name only the newest are kept.

    Returns:
        The file, or None when no folder could be written, which is no fault.
    """
    for path in list_places(source, kind, key):
        try:
            path.parent.mkdir(parents=path.parent.name != ".vlcore", exist_ok=True)
            _write(path, arrays)
        except OSError as error:
            _log.info("%s cannot be written (%s)", path, error)
            continue
        _prune(path.parent, path.name.removesuffix(f"-{key}.npz"))
        return path
    return None


def list_places(source: str | Path, kind: str, key: str) -> list[Path]:
    """Where a cache may be: beside a source that is a file or folder, then in the user's cache folder."""
    path = Path(source).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    user = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "vlcore"
    folders = [path.parent / ".vlcore", user] if path.exists() else [user]
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in path.name)[:80]
    return [folder / f"{stem}.{kind}-{key}.npz" for folder in folders]


def _write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    import numpy

    handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            numpy.savez(file, allow_pickle=False, **arrays)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _prune(folder: Path, head: str) -> None:
    try:
        caches = [(file.stat().st_mtime_ns, file) for file in folder.glob("*.npz") if file.name.startswith(f"{head}-")]
        for _, file in sorted(caches)[:-KEPT]:
            file.unlink(missing_ok=True)
    except OSError as error:  # another process cleans up as well
        _log.info("%s cannot be cleaned (%s)", folder, error)
