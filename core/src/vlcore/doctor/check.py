"""The check of a data set: every fault, what rows will take, and what becomes of those that are too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vlcore.budget import OnOverflow, explain_overflow, fit
from vlcore.dataset import Rows
from vlcore.doctor.examine import Examined, examine_rows
from vlcore.doctor.findings import Finding, name_fault
from vlcore.doctor.settings import LookConfig
from vlcore.errors import VlcoreError
from vlcore.forecast import Forecast, forecast_rows
from vlcore.spread import spread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vlcore.model import Frontend
    from vlcore.template import LossOn

#: Bars of a histogram.
BARS = 40


@dataclass(frozen=True, slots=True)
class Spread:
    """How a number of tokens is spread over rows."""

    p50: int
    p95: int
    p99: int
    max: int
    total: int


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The rows of a source; all numbers but `rows` are of those without faults.

    Attributes:
        name: what was typed for it.
        rows: its rows, sampled and weighed.
        sound: those without faults.
        turns: questions.
        images: pictures.
        videos: videos.
        tokens: of each row: `all`, `text`, `media` and `trained`; empty without a model.
        left_out: those among them that are too long and left out.
        lengths: how many rows have how many tokens, in bars of one width from the shortest row to the longest.
        shortest: tokens of the shortest row.
    """

    name: str
    rows: int
    sound: int
    turns: int
    images: int
    videos: int
    left_out: int = 0
    tokens: Mapping[str, Spread] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    shortest: int = 0


@dataclass(frozen=True, slots=True)
class Long:
    """A row above `max_length`: its tokens, and those that are left of it; None when it is not used at all."""

    source: str
    line: int
    tokens: int
    left: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found.

    Attributes:
        model: the model's name; empty when there was none.
        sources: one a source.
        total: all of them.
        read: records that could be read, by file.
        placed: how many of them had media without tags, by the rule that placed them.
        unread: keys that nothing reads and in how many records, by file.
        max_length: tokens; 0 is no limit.
        on_overflow: what is done about longer rows.
        long: the longer rows.
        faults: what a training cannot use.
        warnings: what is worth a look.
    """

    model: str
    sources: tuple[SourceReport, ...]
    total: SourceReport
    read: Mapping[str, int]
    placed: Mapping[str, int]
    unread: Mapping[str, Mapping[str, int]]
    max_length: int
    on_overflow: OnOverflow
    long: tuple[Long, ...]
    faults: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    def write(self) -> dict[str, Any]:
        """The report as plain values, ready for json."""
        return asdict(self)


def check_rows(rows: Rows, frontend: Frontend | None, config: LookConfig, decode: bool = False) -> Report:
    """Reads every row and every header; each record once, however often its row is there.

    Args:
        rows: the rows.
        frontend: the model's; without it only the form of rows is checked.
        config: the limit, what is done about longer rows, and what counts in the loss.
        decode: whether media are decoded whole.
    """
    distinct, where = find_distinct(rows)
    examined = examine_rows(distinct, frontend, decode)
    faults, forecast = dict(examined.faults), None
    long: list[Long] = []
    if frontend:
        forecast = forecast_rows(frontend, distinct, loss_on=config.loss_on)
        for index, fault in forecast.faults.items():
            faults.setdefault(index, [name_fault(distinct.locate(index), fault)])
        long, unfit = fit_rows(Fit(frontend, distinct, forecast.lengths, config.max_length, config.on_overflow,
                                   config.loss_on), faults)
        faults |= unfit
    count = Count(rows, where, examined, forecast, faults, config.max_length if config.on_overflow == "drop" else 0)
    tally = examined.tally.write()
    return Report(
        model=frontend.checkpoint.name if frontend else "",
        sources=tuple(count.count_source(number) for number in range(len(rows.sources))), total=count.count_all(),
        read=tally["rows"], placed=tally["placed"], unread=tally["unread"],
        max_length=config.max_length, on_overflow=config.on_overflow, long=tuple(long),
        faults=list_findings(faults), warnings=list_findings(examined.warnings),
    )


def find_distinct(rows: Rows) -> tuple[Rows, NDArray[Any]]:
    """The rows without those of the same record, and for each row which of them it is.

    A file that was given twice has its records once.
    """
    import numpy

    names = [(str(source.records.locate(0).source), source.records.fingerprint) for source in rows.sources]
    numbers = numpy.array([names.index(name) for name in names], numpy.int64)
    places = numbers[rows.numbers] << 40 | rows.records
    _, first, where = numpy.unique(places, return_index=True, return_inverse=True)
    return rows.select(first), where


def list_findings(found: Mapping[int, Sequence[Finding]]) -> tuple[Finding, ...]:
    """Findings in the order of their rows."""
    return tuple(finding for index in sorted(found) for finding in found[index])


@dataclass(frozen=True)
class Fit:
    """The work of one process: indices of long rows to the tokens left of each, or what is wrong with it."""

    frontend: Frontend
    rows: Rows
    lengths: NDArray[Any]
    max_length: int
    on_overflow: OnOverflow
    loss_on: LossOn

    def __call__(self, indices: Sequence[int]) -> list[tuple[int, int | Finding | None]]:
        """Each index with the tokens that are left, None for a row that is left out, or a fault."""
        return [(index, self.fit_row(index)) for index in map(int, indices)]

    def fit_row(self, index: int) -> int | Finding | None:
        """What becomes of a row."""
        if self.on_overflow == "drop":
            return None
        length, position = int(self.lengths[index]), self.rows.locate(index)
        if self.on_overflow == "error":
            error = explain_overflow(self.frontend, length, length, self.max_length, self.on_overflow)
            return name_fault(position, error)
        messages = self.rows[index].messages
        try:
            return len(fit(self.frontend, messages, self.max_length, self.on_overflow, train=True,
                           loss_on=self.loss_on)[1])
        except VlcoreError as error:
            return name_fault(position, error)


def fit_rows(work: Fit, faults: Mapping[int, Any]) -> tuple[list[Long], dict[int, list[Finding]]]:
    """The rows that are too long, and those among them that a training cannot use."""
    import numpy

    above = numpy.flatnonzero(work.lengths > work.max_length) if work.max_length else numpy.zeros(0, int)
    long, unfit = [], {}
    for part in spread(work, [int(index) for index in above if index not in faults], "long rows"):
        for index, outcome in part:
            place, left = work.rows.locate(index), outcome if isinstance(outcome, int) else None
            long.append(Long(str(place.source), place.line, int(work.lengths[index]), left))
            if isinstance(outcome, Finding):
                unfit[index] = [outcome]
    return long, unfit


class Count:
    """Numbers of the rows of a source, rows that are there several times counted as often."""

    def __init__(
        self, rows: Rows, where: NDArray[Any], examined: Examined, forecast: Forecast | None,
        faults: Mapping[int, Any], limit: int
    ) -> None:
        import numpy

        sound = numpy.ones(len(examined.counts), bool)
        sound[list(faults)] = False
        self.rows, self.sound, self.counts = rows, sound[where], examined.counts[where]
        self.limit = limit
        self.tokens = {} if forecast is None else {
            "all": forecast.lengths[where], "text": forecast.text[where], "media": forecast.media[where],
            "trained": forecast.trained[where],
        }

    def count_all(self) -> SourceReport:
        """The numbers of all rows."""
        import numpy

        return self.count("all", numpy.ones(len(self.rows), bool))

    def count_source(self, number: int) -> SourceReport:
        """The numbers of a source."""
        return self.count(self.rows.sources[number].records.name, self.rows.numbers == number)

    def count(self, name: str, own: NDArray[Any]) -> SourceReport:
        """The numbers of some rows."""
        import numpy

        chosen = own & self.sound
        turns, images, videos = (int(self.counts[key][chosen].sum()) for key in ("turns", "images", "videos"))
        plain = SourceReport(name, int(own.sum()), int(chosen.sum()), turns, images, videos)
        if not self.tokens or not plain.sound:
            return plain
        lengths = self.tokens["all"][chosen]
        bars = numpy.histogram(lengths, bins=BARS)[0].tolist()
        return replace(
            plain, left_out=int((lengths > self.limit).sum()) if self.limit else 0,
            tokens={kind: measure(values[chosen]) for kind, values in self.tokens.items()},
            lengths=tuple(bars), shortest=int(lengths.min()),
        )


def measure(values: NDArray[Any]) -> Spread:
    """How at least one number is spread; percentiles are values that occur."""
    import numpy

    cuts = numpy.percentile(values, (50, 95, 99, 100), method="higher").tolist()
    p50, p95, p99, most = map(int, cuts)
    return Spread(p50, p95, p99, most, int(values.sum(dtype=numpy.int64)))
