"""Plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlcore.table import align


def write_table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows in aligned columns under a head line.

    >>> print(write_table(["a", "b"], [{"a": 1, "b": "x"}]))
    a  b
    1  x
    """
    cells = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    return "\n".join(align(cells, len(columns)))
