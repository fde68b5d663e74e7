"""Which rows a run uses: faults and lengths judged before it, by what `--bad_rows` and `--on_overflow` say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlcore.budget import Overflow, fit
from vlcore.dataset import Rows
from vlcore.dataset.tally import Tally
from vlcore.errors import DataError, VlcoreError
from vlcore.forecast import Unanswered, check_trained, forecast_rows, name_row
from vlcore.spread import spread

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from vlcore.config import DataConfig
    from vlcore.model import Frontend

#: Rows that an error names.
NAMED = 10


@dataclass(frozen=True, slots=True)
class Stock:
    """The rows of a data set that are used.

    Attributes:
        kept: their numbers, of shape (kept,).
        lengths: tokens of each, (kept,).
        steps: how often each was reduced to fit, (kept,); see `vlcore.budget`.
        left_out: a line a row that is not used, `file:line: field: what`.
        reduced: a line a row that was reduced.
        tally: where the rows' media were put, and their keys that nothing reads.
    """

    kept: NDArray[numpy.int64]
    lengths: NDArray[numpy.int32]
    steps: NDArray[numpy.uint16]
    left_out: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)


def take_stock(frontend: Frontend, rows: Rows, config: DataConfig) -> Stock:
    """Judges all rows before a run.

    Rows that cannot be asked for a loss because they have no answer are left out, whatever the rules.

    Raises:
        DataError: for rows with faults under `bad_rows error`, naming the first of each kind, and for rows above
            `max_length` under `on_overflow error`, naming the first and what would be enough.
    """
    import numpy

    forecast = forecast_rows(frontend, rows, loss_on=config.loss_on)
    faults = dict(forecast.faults)
    raise_faults([fault for fault in faults.values() if not isinstance(fault, Unanswered)], len(rows), config)
    lengths, steps = forecast.lengths, numpy.zeros(len(rows), numpy.uint16)
    limit = config.max_length or lengths.max(initial=0)
    long = numpy.flatnonzero(lengths > limit)
    reduced: list[str] = []
    if len(long) and config.on_overflow == "error":
        raise explain_long(rows, long, lengths, config)
    if config.on_overflow == "drop":
        for index in long.tolist():
            why = f"it has {lengths[index]} tokens, max_length is {limit}"
            faults[index] = rows.locate(index).fault("conversation", why, "raise --max_length")
    elif len(long):
        for fitted in fit_rows(frontend, rows, long, config):
            lengths[fitted.indices], steps[fitted.indices] = fitted.length, fitted.step
            if fitted.fault:
                faults |= dict.fromkeys(fitted.indices.tolist(), fitted.fault)
            else:
                reduced.append(fitted.line)
        raise_faults([faults[index] for index in long.tolist() if index in faults], len(rows), config)
    used = numpy.ones(len(rows), bool)
    used[list(faults)] = False
    kept = numpy.flatnonzero(used)
    left_out = tuple(dict.fromkeys(write_fault(faults[index]) for index in sorted(faults)))
    return Stock(kept, lengths[kept], steps[kept], left_out, tuple(reduced), forecast.tally)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A row that was made to fit, or could not be.

    Attributes:
        indices: its numbers; a record may be there several times.
        length: its tokens now.
        step: how often it was reduced.
        line: what was done, for people.
        fault: why it does not fit.
    """

    indices: NDArray[numpy.int64]
    length: int = 0
    step: int = 0
    line: str = ""
    fault: DataError | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """The work of one process: rows that are too long, each made to fit."""

    frontend: Frontend
    rows: Rows
    config: DataConfig

    def __call__(self, indices: Sequence[int]) -> list[tuple[int, int, str, DataError | None]]:
        """Of each row its length, its step, a line about it, and its fault."""
        return [self.fit(int(index)) for index in indices]

    def fit(self, index: int) -> tuple[int, int, str, DataError | None]:
        """A row's length, step, line and fault."""
        config = self.config
        try:
            row = self.rows[index]
            plan: dict[str, Any] = {"train": True, "loss_on": config.loss_on}
            before = len(self.frontend.plan(row.messages, **plan))
            taken, layout = fit(self.frontend, row.messages, config.max_length, config.on_overflow, **plan)
            check_trained(row, layout.labels)
        except VlcoreError as error:
            return 0, 0, "", name_row(self.rows.locate(index), error)
        line = f"{self.rows.locate(index)}: {before} tokens became {len(layout)}: "
        if config.on_overflow == "truncate":
            return len(layout), taken.step, f"{line}{taken.step} oldest turns left out", None
        limits = ", ".join(f"{name} {value}" for name, value in taken.options.items())
        tiles = sum(sum(plan.tiles) for plan in layout.plans)
        return len(layout), taken.step, f"{line}{limits}, {tiles} tiles", None


def fit_rows(frontend: Frontend, rows: Rows, long: NDArray[Any], config: DataConfig) -> Iterator[Fitted]:
    """Rows that are too long, made to fit; of rows with the same record only one is looked at."""
    import numpy

    places = rows.numbers[long].astype(numpy.int64) << 40 | rows.records[long]
    _, first, where = numpy.unique(places, return_index=True, return_inverse=True)
    groups = numpy.split(long[numpy.argsort(where, kind="stable")], numpy.cumsum(numpy.bincount(where))[:-1])
    waiting = iter(groups)
    for results in spread(Fit(frontend, rows, config), long[first], config.on_overflow):  # type: ignore[arg-type]
        for result in results:
            yield Fitted(next(waiting), *result)


def raise_faults(faults: Sequence[DataError], total: int, config: DataConfig) -> None:
    """Raises the faults of rows as one error, unless they are to be left out."""
    if faults and config.bad_rows == "error":
        raise explain_faults(faults, total)


def explain_faults(faults: Sequence[DataError], total: int) -> DataError:
    """One error for the faults of many rows; those of one kind are counted and the first of them named.

    Args:
        faults: at least one; each begins with file and line.
        total: how many rows there are.
    """
    skip = "or leave such rows out with --bad_rows skip"
    if len(faults) == 1:
        return DataError(faults[0].given, faults[0].why, f"{faults[0].do}, {skip}")
    kinds = list(group_faults(map(write_fault, faults)).values())
    said = [lines[0] + (f" (and {count_more(lines)})" if len(lines) > 1 else "") for lines in kinds[:NAMED]]
    said += [f"and faults of {len(kinds) - NAMED} other kinds"] if len(kinds) > NAMED else []
    do = "raise --max_length" if all(isinstance(fault, Overflow) for fault in faults) else "correct them"
    return DataError(f"{len(faults)} of {total} rows", "; ".join(said), f"{do}, {skip}")


def group_faults(lines: Iterable[str]) -> Mapping[str, list[str]]:
    """Lines about rows by what they say, whatever the row, the path and the numbers in it.

    >>> [len(alike) for alike in group_faults(["a.jsonl:1: images[0]: no file /x", "a.jsonl:2: images[1]: no file /y",
    ...                                        "a.jsonl:3: query: it is missing"]).values()]
    [2, 1]
    """
    groups: dict[str, list[str]] = {}
    for line in lines:
        kind = re.sub(r"\S*[/\\]\S*|\d+", "*", line.partition(": ")[2])
        groups.setdefault(kind, []).append(line)
    return groups


def count_more(lines: Sequence[str]) -> str:
    """How many lines come behind the first, and where the next ones stand."""
    places = [line.partition(": ")[0] for line in lines[1:4]]
    return f"{len(lines) - 1} like it: {', '.join(places)}{', ...' if len(lines) > 4 else ''}"


def explain_long(rows: Rows, long: NDArray[Any], lengths: NDArray[Any], config: DataConfig) -> DataError:
    """The error for rows above `max_length`."""
    named = ", ".join(f"{rows.locate(index)} with {lengths[index]}" for index in long[:NAMED].tolist())
    more = f" and {len(long) - NAMED} more" if len(long) > NAMED else ""
    return Overflow(
        f"{len(long)} of {len(rows)} rows",
        f"they have more tokens than --max_length {config.max_length}: {named}{more}",
        f"--max_length {lengths[long].max()} is enough for all, or choose --on_overflow drop, shrink or truncate",
    )


def write_fault(fault: VlcoreError) -> str:
    """A line of a list: file, line, field and what is wrong with it."""
    return " ".join(f"{fault.given}: {fault.why}".split())
