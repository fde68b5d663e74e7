"""Plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def write_table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows in aligned columns under a head line.

    >>> print(write_table(["a", "b"], [{"a": 1, "b": "x"}]))
    a  b
    1  x
    """
    cells = [list(columns), *([str(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    return "\n".join("  ".join(line).rstrip() for line in padded)
