"""What is known of the records of a source, kept beside it from one run to the next."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.dataset import ReadOptions, Rows, Source
from vlcore.dataset.cache import digest_file, make_key, read_arrays, write_arrays
from vlcore.messages import Image, Message, Video
from vlcore.plugins import get_registry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlcore.model import Frontend
    from vlcore.template import LossOn

#: What is kept of a record: tokens of text, of media and of those the trained ones, pictures, questions; the number of
#: the rule that placed its media; the number of the list of its keys that nothing reads; the stamp of its media.
COUNTS = [
    ("known", "?"), ("placed", "i1"), ("text", "i4"), ("media", "i4"), ("trained", "i4"), ("images", "i4"),
    ("turns", "i4"), ("unread", "i4"), ("stamp", "u8"),
]
#: Endings of the files that say how texts and pictures become tokens.
SETTINGS = (".json", ".model", ".txt", ".tiktoken", ".jinja")
KIND = "forecast"
#: Records learnt anew from which keeping them is worth a file.
WORTH_KEEPING = 1000


@dataclass(frozen=True)
class Ledgers:
    """What is kept of the sources of rows that are all different and sorted by source."""

    frontend: Frontend
    rows: Rows
    loss_on: LossOn
    train: bool

    def read(self) -> tuple[NDArray[Any], dict[str, int]]:
        """What is known of the rows, and the lists of unread keys as JSON with their numbers."""
        import numpy

        counts, unread = numpy.zeros(len(self.rows), COUNTS), {"[]": 0}
        for number, key, span, records in self._list():
            whole, lists = read_ledger(self.rows.sources[number], key)
            renumbered = numpy.array([number_text(text, unread) for text in lists], "i4")
            counts[span] = whole[records]
            counts["unread"][span] = renumbered[counts["unread"][span]]
        return counts, unread

    def write(self, counts: NDArray[Any], unread: list[str]) -> None:
        """Keeps what is known of the rows beside what was known of others of their sources."""
        import numpy

        numbers = {text: number for number, text in enumerate(unread)}
        for number, key, span, records in self._list():
            whole, lists = read_ledger(self.rows.sources[number], key)
            whole["unread"] = numpy.array([number_text(text, numbers) for text in lists], "i4")[whole["unread"]]
            whole[records] = counts[span]
            write_ledger(self.rows.sources[number], key, whole, list(numbers))

    def _list(self) -> Iterator[tuple[int, str, slice, NDArray[Any]]]:
        """Of each large source its number, its key, its rows, and their records."""
        import numpy

        starts = numpy.searchsorted(self.rows.numbers, numpy.arange(len(self.rows.sources) + 1))
        large = [n for n, source in enumerate(self.rows.sources)
                 if len(source.records) >= WORTH_KEEPING and starts[n] < starts[n + 1]]
        digest = digest_frontend(self.frontend) if large else ""
        for number in large:
            span = slice(int(starts[number]), int(starts[number + 1]))
            key = make_ledger_key(self.rows.sources[number], digest, loss_on=self.loss_on, train=self.train)
            yield number, key, span, self.rows.records[span]


def number_text(text: str, numbers: dict[str, int]) -> int:
    """The number of a text, a new one when it has none yet."""
    return numbers.setdefault(text, len(numbers))


def read_ledger(source: Source, key: str) -> tuple[NDArray[Any], list[str]]:
    """What is known of a source's records, of shape (records,), and the lists of unread keys, as JSON.

    Only `known` records have a meaning in it.
    """
    import numpy

    found = read_arrays(source.records.name, KIND, key)
    if found is not None and len(found.get("counts", ())) == len(source.records):
        return found["counts"].astype(numpy.dtype(COUNTS)), found["unread"].tolist()
    return numpy.zeros(len(source.records), COUNTS), ["[]"]


def write_ledger(source: Source, key: str, counts: NDArray[Any], unread: list[str]) -> None:
    """Keeps what is known of a source's records; arguments as `read_ledger` gives them."""
    import numpy

    write_arrays(source.records.name, KIND, key, {"counts": counts, "unread": numpy.array(unread)})


def make_ledger_key(source: Source, frontend: str, **more: Any) -> str:
    """A digest of all that the counts of a source depend on: its content, how it is read, and the frontend."""
    options = source.options
    # Whether an answer may be missing, or a file, changes which rows have faults; those are never kept.
    plain = dataclasses.asdict(dataclasses.replace(options, seed=0, train=True, check_media=True, grounding=None))
    folder = start_folder(source, options)
    return make_key(source.records.fingerprint, folder, frontend, plain, options.grounding is not None, **more)


def start_folder(source: Source, options: ReadOptions) -> str:
    """The folder that relative paths of a source start from."""
    return str(Path(options.image_folder or source.records.locate(0).source.parent).absolute())


def digest_frontend(frontend: Frontend) -> str:
    """A digest of what turns a conversation into tokens: tokenizer and settings files, family, options, version."""
    from importlib.metadata import version

    checkpoint = frontend.checkpoint
    folder = checkpoint.folder
    files = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern)
                   if path.suffix in SETTINGS and path.is_file() and not path.name.endswith(".index.json"))
    plugin = next(plugin for plugin in get_registry().plugins if plugin.name == checkpoint.owner)
    return make_key(
        {path.relative_to(folder).as_posix(): digest_file(path) for path in files},
        json.loads(json.dumps(dict(checkpoint.config), default=str)),
        dict(frontend.resolve_options().family),
        checkpoint.name, checkpoint.family.name, plugin.distribution, plugin.version,
        repr(frontend.media),
        version("vlcore"), version("transformers") if checkpoint.family.native else "",
    )


def stamp_media(messages: Iterable[Message]) -> int:
    """A number that changes when a file of a conversation's media does; 0 when it has no files.

    Names, sizes and times of change are looked at, not the content; what lies behind URLs is not.

    Raises:
        OSError: when a file is gone.
    """
    digest, files = hashlib.blake2b(digest_size=8), 0
    for path in (path for message in messages for medium in message.media for path in list_files(medium)):
        facts = path.stat()
        digest.update(f"{path}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode("utf8", "surrogateescape"))
        files += 1
    return int.from_bytes(digest.digest(), "little") or 1 if files else 0


def list_files(medium: Image | Video) -> list[Path]:
    """The local files of a medium."""
    if isinstance(medium, Video) and medium.frames:
        return [path for frame in medium.frames for path in list_files(frame)]
    return [medium.source] if isinstance(medium.source, Path) else []
