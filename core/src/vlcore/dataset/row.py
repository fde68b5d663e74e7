"""The values of this package: where a row stands, the row, and how rows are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import DataConfig
from vlcore.errors import DataError
from vlcore.family import AskMedia, ModelFamily, ModelRecord, PlaceMedia
from vlcore.messages import Message, write_message

if TYPE_CHECKING:
    from vlcore.boxes import Grounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a data file; as text it reads `file:line`."""

    source: Path
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"

    def fault(self, field: str, why: str, do: str) -> DataError:
        """The error for a field of the row that stands here."""
        return DataError(f"{self}: {field}", why, do)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Position):
    """One conversation of a data file.

    Attributes:
        source: the file it came from.
        line: the line of the file it begins in, counted from 1, in json as in jsonl.
        messages: its turns. Local media are absolute paths. Media at tags stand in front of the text, in the
            order of their tags, and the tags stay in the text; media without tags stand where they belong.
        placed: the rule that placed its media, when no tag did.
        unread: its keys that nothing reads, of turns as `messages[].name`.
    """

    messages: tuple[Message, ...]
    placed: PlaceMedia | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How rows are read.

    Attributes:
        place: where media without tags belong.
        ask: when a talk asks for media, and so which turns may have some: `turn`, one medium each; `conversation`,
            one of its turns; `tag`, all turns.
        tags: texts that stand for an image; the first is the one written for `<img>PATH</img>`.
        image_folder: folder that relative media paths start from; else the data file's folder.
        system: system text for rows that have none.
        seed: seed of `#N` sampling.
        train: whether every row must end with an answer.
        check_media: whether a local file that is missing is a fault now rather than when it is opened.
        grounding: how names and boxes of a row's objects are written; None where a model has no marks for them.
    """

    place: PlaceMedia = "last"
    ask: AskMedia = "tag"
    tags: tuple[str, ...] = ("<image>",)
    image_folder: str = ""
    system: str = ""
    seed: int = 42
    train: bool = True
    check_media: bool = True
    grounding: Grounding | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site(Position):
    """A row that is being read: where it stands, and how it is read."""

    options: ReadOptions


def make_read_options(
    config: DataConfig, family: ModelFamily, train: bool = True, record: ModelRecord | None = None
) -> ReadOptions:
    """How rows are read for a model of a family, if it is known which, under a configuration."""
    return ReadOptions(
        place=family.place, ask=family.ask_of(record), tags=family.tags, image_folder=config.image_folder,
        system=config.system, seed=config.data_seed, train=train, grounding=family.grounding,
    )


def write_row(row: Row) -> dict[str, Any]:
    """The plain form of a row, `{"messages": [...]}`, ready for json; reading it gives the same messages."""
    return {"messages": [write_message(message) for message in row.messages]}
