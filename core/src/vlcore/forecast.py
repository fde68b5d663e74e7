"""What rows will take, known before the run from texts and the headers of their media."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vlcore.batch import IGNORED
from vlcore.dataset import Position, Row, Rows
from vlcore.dataset.tally import PLACEMENTS, Tally
from vlcore.errors import DataError, VlcoreError
from vlcore.ledger import COUNTS, WORTH_KEEPING, Ledgers, number_text, stamp_media
from vlcore.spread import spread

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from vlcore.family import PlaceMedia
    from vlcore.model import Frontend
    from vlcore.template import LossOn

#: Rules that place media, by their number in the counts; 0 is none.
RULES: tuple[PlaceMedia, ...] = tuple(PLACEMENTS)


class Unanswered(DataError):
    """A row without an answer, which can be asked but not trained on."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Counts of each row, all of shape (rows,), 0 where the row has a fault.

    Attributes:
        text: tokens of text, special ones included.
        media: tokens at the places of media.
        trained: tokens that count in the loss.
        images: pictures and frames.
        turns: questions.
        faults: what is wrong with a row, by its index, in order.
        tally: where the rows' media were put, and their keys that nothing reads.
    """

    text: NDArray[numpy.int32]
    media: NDArray[numpy.int32]
    trained: NDArray[numpy.int32]
    images: NDArray[numpy.int32]
    turns: NDArray[numpy.int32]
    faults: Mapping[int, DataError]
    tally: Tally = field(default_factory=Tally)

    @property
    def lengths(self) -> NDArray[numpy.int32]:
        """Tokens of each row."""
        return self.text + self.media


def forecast_rows(
    frontend: Frontend, rows: Rows, *, loss_on: LossOn = "answers", train: bool = True, processes: int | None = None
) -> Forecast:
    """What each row takes; of rows with the same record only one is looked at.

    What was learnt of a large source is kept beside it (`.vlcore/`), and holds as long as the source, the model's
    tokenizer and settings, and the names, sizes and times of its media are the same. Faults are never kept.

    Args:
        frontend: plans the rows.
        rows: the rows.
        loss_on: what counts in the loss.
        train: whether rows are planned with their closing answer, and must have one; else without.
        processes: how many work on it; None for as many as there are cores when that is worth it. The result is
            the same.
    """
    import numpy

    places = rows.numbers.astype(numpy.int64) << 40 | rows.records
    once, where = numpy.unique(places, return_inverse=True)
    distinct = Rows(rows.sources, once >> 40, once & (1 << 40) - 1)
    counts, unread, faults = _count_distinct(frontend, distinct, loss_on, train, processes)
    faulty = numpy.zeros(len(distinct), bool)
    faulty[list(faults)] = True
    each = counts[where]
    return Forecast(
        each["text"], each["media"], each["trained"], each["images"], each["turns"],
        {index: faults[int(where[index])] for index in numpy.flatnonzero(faulty[where]).tolist()},
        _tally(rows, each, unread),
    )


def name_row(position: Position, error: VlcoreError) -> DataError:
    """An error with the row's file and line in front."""
    kind = type(error) if isinstance(error, DataError) else DataError
    return kind(f"{position}: {error.given}", error.why, error.do)


def check_answered(row: Row) -> None:
    """Raises Unanswered for a row that ends with a question."""
    if row.messages[-1].role != "assistant":
        raise Unanswered(f"{row}: conversation", "it has no answer", "give one, or leave the row out")


def check_trained(position: Position, labels: Sequence[int]) -> int:
    """How many tokens count in the loss.

    Raises:
        DataError: when none does.
    """
    trained = len(labels) - labels.count(IGNORED)
    if not trained:
        raise position.fault("conversation", "no token counts in the loss", "train on an answer, or leave the row out")
    return trained


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in some rows: their counts, their faults by index, and the lists of unread keys as JSON."""

    indices: Sequence[int]
    counts: NDArray[Any]
    faults: Mapping[int, DataError]
    unread: Sequence[str]


@dataclass(frozen=True)
class Count:
    """The work of one process: rows to counts. What is known already is looked at only for changed media."""

    frontend: Frontend
    rows: Rows
    known: NDArray[Any]
    loss_on: LossOn
    train: bool

    def __call__(self, indices: Sequence[int]) -> Found:
        """The counts of some rows; `unread` is a number in the list that comes along."""
        import numpy

        counts, faults = numpy.zeros(len(indices), COUNTS), {}
        unread: dict[str, int] = {}
        for at, index in enumerate(map(int, indices)):
            try:
                counts[at], keys = self.count(index)
                counts[at]["unread"] = unread.setdefault(keys, len(unread))
            except DataError as fault:
                faults[index] = fault
        return Found(indices, counts, faults, list(unread))

    def count(self, index: int) -> tuple[Any, str]:
        """What is known of a row, as of `COUNTS`, and its unread keys as JSON.

        Raises:
            DataError: naming file and line, when it cannot be read or has nothing to train.
        """
        row, known = self.rows[index], self.known[index]
        if self.train:
            check_answered(row)
        try:
            stamp = stamp_media(row.messages)
        except OSError:
            stamp = 0  # planning says what is wrong
        keys = json.dumps(row.unread)
        if known["known"] and known["stamp"] == stamp:
            return known, keys
        placed = RULES.index(row.placed) + 1 if row.placed else 0
        return (True, placed, *count_row(self.frontend, row, self.loss_on, self.train), 0, stamp), keys


def count_row(frontend: Frontend, row: Row, loss_on: LossOn, train: bool) -> tuple[int, int, int, int, int]:
    """Text, media and trained tokens, pictures and questions of a row.

    Raises:
        DataError: naming file and line, when it cannot be planned or has nothing to train.
    """
    # A question is asked without the answer that the row may end with.
    asked = row.messages[:-1] if not train and row.messages[-1].role == "assistant" else row.messages
    try:
        layout = frontend.plan(asked, train=train, loss_on=loss_on)
    except VlcoreError as error:
        raise name_row(row, error) from error
    trained = check_trained(row, layout.labels) if train else 0
    media = sum(plan.tokens for plan in layout.plans)
    images = sum(len(slot.images) for slot in layout.slots)
    return len(layout) - media, media, trained, images, sum(message.role == "user" for message in row.messages)


class Memory:
    """A tokenizer that remembers short texts: roles, system texts and common questions come again in every row."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._remember = lru_cache(4096)(tokenizer.encode)

    def encode(self, text: str) -> list[int]:
        """As the tokenizer."""
        return list(self._remember(text) if len(text) <= 1000 else self.tokenizer.encode(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (self.tokenizer,)


def _count_distinct(
    frontend: Frontend, rows: Rows, loss_on: LossOn, train: bool, processes: int | None
) -> tuple[NDArray[Any], list[str], dict[int, DataError]]:
    """Counts of rows that are all different, sorted by source; their lists of unread keys; and their faults."""
    import numpy

    ledgers = Ledgers(frontend, rows, loss_on, train)
    counts, unread = ledgers.read()
    faults: dict[int, DataError] = {}
    pending = numpy.flatnonzero(~counts["known"] | (counts["stamp"] > 0))
    fresh = 0
    work = Count(replace(frontend, tokenizer=Memory(frontend.tokenizer)), rows, counts, loss_on, train)
    for found in spread(work, pending, "lengths", processes):  # type: ignore[arg-type]
        if found.unread:
            found.counts["unread"] = [number_text(found.unread[n], unread) for n in found.counts["unread"].tolist()]
        fresh += int((found.counts["known"] & (found.counts != counts[found.indices])).sum())
        counts[found.indices] = found.counts
        faults |= found.faults
    if fresh >= WORTH_KEEPING:
        ledgers.write(counts, list(unread))
    return counts, list(unread), faults


def _tally(rows: Rows, counts: NDArray[Any], unread: Sequence[str]) -> Tally:
    """The tally of rows from their counts and the lists of unread keys."""
    import numpy

    totals: dict[str, Counter[str]] = {"rows": Counter(), "placed": Counter()}
    keys: dict[str, Counter[str]] = {}
    for number, source in enumerate(rows.sources):
        part = counts[rows.numbers == number]
        totals["rows"][source.records.name] += len(part)
        for rule, n in zip(RULES, numpy.bincount(part["placed"], minlength=len(RULES) + 1)[1:].tolist(), strict=True):
            totals["placed"] += Counter({rule: n})
        for at, n in enumerate(numpy.bincount(part["unread"], minlength=1).tolist()):
            for key in json.loads(unread[at]) if n else ():
                keys.setdefault(source.records.name, Counter())[key] += n
    return Tally({**totals, "unread": keys})
