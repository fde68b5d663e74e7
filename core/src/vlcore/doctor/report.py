"""The report of a check as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vlcore.dataset.tally import Tally
from vlcore.doctor.check import Long, Report, SourceReport, Spread
from vlcore.doctor.findings import Finding, generalise, group_findings

#: Findings of one kind that are shown unless all are asked for.
FEW = 3
_HEIGHTS = "▁▂▃▄▅▆▇█"
_TITLES = {"all": "all", "text": "text", "media": "media", "trained": "in the loss"}


def write_report(report: Report, *, everything: bool = False, bars: bool = False) -> Iterator[str]:
    """The lines of a report.

    Args:
        report: what was found.
        everything: whether every finding is listed, not only the first of each kind.
        bars: whether lengths are drawn.
    """
    for source in report.sources if len(report.sources) == 1 else (*report.sources, report.total):
        yield from write_source(source, bars)
    yield from write_rules(report)
    yield from write_long(report, everything)
    for title, findings in (("fault", report.faults), ("warning", report.warnings)):
        if findings:
            yield f"{name_number(len(findings), title)}:"
            yield from write_findings(findings, everything)
            yield ""
    yield judge(report)


def write_source(source: SourceReport, bars: bool) -> Iterator[str]:
    """A source in one line, and its tokens in a table."""
    faulty = source.rows - source.sound
    held = [name_number(source.rows, "row") + (f" ({faulty:,} with faults)" if faulty else "")]
    held += [name_number(n, what) for what, n in (("turn", source.turns), ("image", source.images),
                                                  ("video", source.videos)) if n]
    yield f"{source.name}: {', '.join(held)}"
    if source.tokens:
        columns = ("p50", "p95", "p99", "max", "total")
        yield "  " + "tokens".ljust(12) + "".join(column.rjust(9) for column in columns[:-1]) + columns[-1].rjust(16)
        yield from (write_spread(_TITLES[kind], spread) for kind, spread in source.tokens.items())
    if source.lengths and bars:
        yield f"  {source.shortest:,} {draw_bars(source.lengths)} {source.tokens['all'].max:,} tokens"
    yield ""


def write_spread(title: str, spread: Spread) -> str:
    """A row of the table."""
    cells = "".join(f"{n:9,}" for n in (spread.p50, spread.p95, spread.p99, spread.max))
    return f"  {title:12}{cells}{spread.total:16,}"


def draw_bars(counts: Sequence[int]) -> str:
    """Numbers as bars side by side; a number above 0 is never without one.

    >>> draw_bars([0, 1, 7, 70])
    ' ▁▁█'
    """
    most = max(counts)
    return "".join(_HEIGHTS[(n * len(_HEIGHTS) - 1) // most] if n else " " for n in counts)


def write_rules(report: Report) -> Iterator[str]:
    """Where media were put and what was not read, where there is something to say."""
    tally = Tally({"rows": report.read, "placed": report.placed, "unread": report.unread})
    if report.placed:
        yield f"placement: {tally.describe_placement()}"
    yield from (f"not read: {line}" for line in tally.describe_unread())
    if not report.model:
        yield "form only: how many tokens rows take, and whether they fit, is told with --model"
    if report.placed or report.unread or not report.model:
        yield ""


def write_long(report: Report, everything: bool) -> Iterator[str]:
    """The rows above the limit and what becomes of them; under the rule `error` they are faults instead."""
    if not report.long or report.on_overflow == "error":
        return
    share = f"{name_number(len(report.long), 'row')} above --max_length {report.max_length:,}"
    done = {"drop": "left out", "shrink": "given fewer tiles or frames", "truncate": "cut to their last turns"}
    yield f"{share}, {done[report.on_overflow]} (--on_overflow {report.on_overflow}):"
    yield from list_some([write_cut(row) for row in report.long], everything)
    yield ""


def write_cut(row: Long) -> str:
    """What becomes of a row."""
    left = "" if row.left is None else f", {row.left:,} left"
    return f"  {row.source}:{row.line}: {row.tokens:,} tokens{left}"


def write_findings(findings: Sequence[Finding], everything: bool) -> Iterator[str]:
    """Findings of one kind under one line, those that are alone as they are."""
    for group in group_findings(findings):
        if len(group) == 1:
            yield f"  {group[0]}"
            continue
        why, do = (name_common([getattr(finding, part) for finding in group]) for part in ("why", "do"))
        yield f"  {len(group):,} times: {why}; {do}"
        yield from list_some([f"    {finding.place}" + ("" if finding.why == why else f": {finding.why}")
                              for finding in group], everything)


def name_common(texts: Sequence[str]) -> str:
    """What some sentences say, without what only one of them says."""
    return texts[0] if len(set(texts)) == 1 else generalise(texts[0])


def list_some(lines: Sequence[str], everything: bool) -> Iterator[str]:
    """The first lines, or all of them."""
    kept = len(lines) if everything or len(lines) <= FEW + 1 else FEW
    yield from lines[:kept]
    if kept < len(lines):
        indent = len(lines[0]) - len(lines[0].lstrip())
        yield f"{' ' * indent}and {len(lines) - kept:,} more; --all lists every one"


def judge(report: Report) -> str:
    """The last line: whether a training can begin."""
    total = report.total
    faulty, use = total.rows - total.sound, "trained on" if report.model else "read"
    if faulty:
        return f"{faulty:,} of {name_number(total.rows, 'row')} cannot be {use}"
    said = f"no faults: {name_number(total.rows - total.left_out, 'row')} can be {use}"
    return said + (f", {total.left_out:,} are too long and left out" if total.left_out else "")


def name_number(number: int, thing: str) -> str:
    """A number of things in words.

    >>> name_number(1, "row"), name_number(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
