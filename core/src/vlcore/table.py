"""Plain tables: rows as lines with their columns aligned."""

from __future__ import annotations

from collections.abc import Sequence


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows of equally many cells as lines.

    Args:
        rows: the cells.
        left: so many columns stand flush left, those behind them, mostly figures, flush right.

    >>> align([("part", "size"), ("all", "12")], 1)
    ['part  size', 'all     12']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
