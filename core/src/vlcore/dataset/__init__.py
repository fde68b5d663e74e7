"""Data files in, rows out: json and jsonl in the usual forms become messages, once, at the border.

A row knows the file and line it came from, so every later fault can name them. No tokenizer, no pixels and no
download here: media are paths and URLs until `vlcore.media` opens them.
"""

from __future__ import annotations

from vlcore.dataset.forms import read_row
from vlcore.dataset.names import list_registered
from vlcore.dataset.read import find_faults, open_rows, read_datasets, read_rows, split_rows
from vlcore.dataset.row import Position, ReadOptions, Row, make_read_options, write_row
from vlcore.dataset.rows import Records, Rows, Source
from vlcore.dataset.tally import Tally, describe_placement

__all__ = [
    "Position",
    "ReadOptions",
    "Records",
    "Row",
    "Rows",
    "Source",
    "Tally",
    "describe_placement",
    "find_faults",
    "list_registered",
    "make_read_options",
    "open_rows",
    "read_datasets",
    "read_row",
    "read_rows",
    "split_rows",
    "write_row",
]
