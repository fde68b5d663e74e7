"""What is found in rows: faults, which a training cannot use, and warnings, which a person should look at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vlcore.dataset import Position
from vlcore.errors import VlcoreError

#: What differs between findings of one kind: quoted texts, paths, numbers.
_OWN = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\d[\d,.x]*")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a row.

    Attributes:
        source: the file.
        line: the line the row begins in.
        field: what in the row; empty for the row as a whole.
        why: what is the matter.
        do: what to do about it.
    """

    source: str
    line: int
    field: str
    why: str
    do: str

    @property
    def place(self) -> str:
        """File, line and field."""
        return f"{self.source}:{self.line}" + (f": {self.field}" if self.field else "")

    @property
    def kind(self) -> tuple[str, str, str]:
        """What findings of one kind have in common."""
        return generalise(self.field), generalise(self.why), generalise(self.do)

    def __str__(self) -> str:
        return f"{self.place}: {self.why}; {self.do}"


def find(position: Position, field: str, why: str, do: str) -> Finding:
    """A finding about the row that stands there."""
    return Finding(str(position.source), position.line, field, why, do)


def name_fault(position: Position, error: VlcoreError) -> Finding:
    """An error about the row that stands there, whether it names file and line or not."""
    where = f"{position.source}:{position.line}"
    return find(position, error.given.removeprefix(where).removeprefix(":").strip(), error.why, error.do)


def generalise(text: str) -> str:
    """A sentence without what belongs to one row only.

    >>> generalise("there is no file /data/b.png")
    'there is no file …'
    """
    return _OWN.sub("…", text)


def group_findings(findings: Iterable[Finding]) -> list[Sequence[Finding]]:
    """Findings of one kind together, in the order of their first ones."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.kind, []).append(finding)
    return list(groups.values())
