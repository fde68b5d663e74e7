"""Data files in, rows out: json and jsonl in the usual forms become messages, once, at the border.

A row knows the file and line it came from, so every later fault can name them. No tokenizer, no pixels and no
download here: media are paths and URLs until `vlcore.media` opens them.
"""

from __future__ import annotations

from vlcore.dataset.forms import read_row
from vlcore.dataset.read import find_faults, read_datasets, read_rows, split_rows
from vlcore.dataset.row import Position, ReadOptions, Row, describe_placement, make_read_options, write_row

__all__ = [
    "Position",
    "ReadOptions",
    "Row",
    "describe_placement",
    "find_faults",
    "make_read_options",
    "read_datasets",
    "read_row",
    "read_rows",
    "split_rows",
    "write_row",
]
