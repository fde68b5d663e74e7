"""What is said once about many rows: where media without tags were put, and the keys that nothing reads."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from vlcore.dataset.forms import FORMS, hint_key
from vlcore.dataset.row import Row
from vlcore.family import PlaceMedia

_log = logging.getLogger("vlcore")
#: What each rule does with media that no tag places, in words for people.
PLACEMENTS: dict[PlaceMedia, str] = {
    "last": "all at the start of the last query",
    "turns": "one at the start of each turn, in order",
    "first": "all at the start of the first query",
}


class Tally:
    """Counts of rows, taken where rows are read anyway: never read rows for it alone.

        tally = Tally()
        for row in rows: tally.add(row)            # in a worker: one tally each, joined with `update`
        _log.info(tally.describe_placement()); tally.warn_unread()
        kept = tally.write()                       # plain, for a cache; Tally(kept) is the same tally
    """

    def __init__(self, plain: Mapping[str, Any] | None = None) -> None:
        plain = plain or {}
        self.rows = Counter[str](plain.get("rows", {}))
        self.placed = Counter[PlaceMedia](plain.get("placed", {}))
        self.unread = {source: Counter[str](keys) for source, keys in plain.get("unread", {}).items()}

    def add(self, row: Row) -> None:
        """Counts a row."""
        source = str(row.source)
        self.rows[source] += 1
        if row.placed:
            self.placed[row.placed] += 1
        if row.unread:
            self.unread.setdefault(source, Counter()).update(row.unread)

    def update(self, other: Tally) -> None:
        """Adds the counts of another one."""
        self.rows.update(other.rows)
        self.placed.update(other.placed)
        for source, keys in other.unread.items():
            self.unread.setdefault(source, Counter()).update(keys)

    def write(self) -> dict[str, Any]:
        """The counts as plain values, ready for json."""
        return {"rows": dict(self.rows), "placed": dict(self.placed),
                "unread": {source: dict(keys) for source, keys in self.unread.items()}}

    def describe_placement(self) -> str:
        """A sentence that says where media without tags were put, and in how many rows."""
        said = [f"{n} of {self.rows.total()} rows: {PLACEMENTS[rule]}" for rule, n in self.placed.items()]
        return "media without tags, " + "; ".join(said) if said else "tags or parts place all media"

    def describe_unread(self) -> list[str]:
        """A line a source for its keys that nothing reads; a near name shows a slip of the pen."""
        known = set().union(*FORMS.values())
        return [
            f"{source}, {self.rows[source]} rows: keys that are not read: "
            + ", ".join(f"{key}{hint_key(key, known)} in {n}" for key, n in sorted(keys.items()))
            for source, keys in self.unread.items()
        ]

    def warn_unread(self) -> None:
        """One warning a source for the keys that nothing reads."""
        for line in self.describe_unread():
            _log.warning("%s", line)


def describe_placement(rows: Iterable[Row]) -> str:
    """A sentence that says where media without tags were put, and in how many rows; reads them all.

    >>> describe_placement([])
    'tags or parts place all media'
    """
    tally = Tally()
    for row in rows:
        tally.add(row)
    return tally.describe_placement()
