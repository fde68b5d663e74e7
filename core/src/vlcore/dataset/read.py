"""Sources become rows: sampled, read, and split into those to train on and those to evaluate on."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlcore.config import DataConfig
from vlcore.dataset.files import Record, read_records, split_source
from vlcore.dataset.forms import FORMS, find_form, hint_key, list_unread, read_row
from vlcore.dataset.row import ReadOptions, Row, make_read_options
from vlcore.errors import DataError, UsageError
from vlcore.family import ModelFamily

_log = logging.getLogger("vlcore")


def read_rows(source: str, options: ReadOptions | None = None) -> list[Row]:
    """The rows of a source, in the order of the file.

    Args:
        source: a `.json` or `.jsonl` file; `FILE#N` samples N of its rows.
        options: how they are read.

    Raises:
        UsageError: for a source that is no such file, or has fewer rows than N.
        DataError: for the first row that cannot be read, naming file, line and field.
    """
    options = options or ReadOptions()
    records = _list_records(source, options)
    rows = [read_row(record.data, record.position, options) for record in records]
    _report_unread(source, records)
    return rows


def find_faults(source: str, options: ReadOptions | None = None) -> list[DataError]:
    """What is wrong with the rows of a source, one fault a row; empty when all can be read."""
    options = options or ReadOptions()
    faults = []
    for record in _list_records(source, options):
        try:
            read_row(record.data, record.position, options)
        except DataError as fault:
            faults.append(fault)
    return faults


def read_datasets(config: DataConfig, family: ModelFamily) -> tuple[list[Row], list[Row]]:
    """The rows to train on and the rows to evaluate on.

    Without `val_dataset`, `dataset_test_ratio` of the training rows is set aside. Rows of `val_dataset` may
    lack an answer.
    """
    train = _read_all(config.dataset, make_read_options(config, family))
    if config.val_dataset:
        return train, _read_all(config.val_dataset, make_read_options(config, family, train=False))
    return split_rows(train, config.dataset_test_ratio, config.data_seed)


def split_rows(rows: Sequence[Row], ratio: float, seed: int = 42) -> tuple[list[Row], list[Row]]:
    """The rows to keep and the rows set aside, both in their order.

    Args:
        rows: at least one stays; with two or more rows and a ratio above 0, at least one is set aside.
        ratio: the part to set aside, 0 to 1.
        seed: which rows are set aside depends on it and on the number of rows only.
    """
    if not 0 <= ratio <= 1:
        raise UsageError(f"dataset_test_ratio {ratio}", "it is a part of all", "give a number from 0 to 1")
    wanted = max(1, int(len(rows) * ratio)) if ratio else 0
    count = max(0, min(wanted, len(rows) - 1))
    aside = set(random.Random(seed).sample(range(len(rows)), count))
    return [r for i, r in enumerate(rows) if i not in aside], [r for i, r in enumerate(rows) if i in aside]


def _read_all(sources: Iterable[str], options: ReadOptions) -> list[Row]:
    return [row for source in sources for row in read_rows(source, options)]


def _list_records(source: str, options: ReadOptions) -> list[Record]:
    path, number = split_source(source)
    records = read_records(path)
    return records if number is None else _sample(records, number, path, options.seed)


def _sample(records: list[Record], number: int, path: Path, seed: int) -> list[Record]:
    if number > len(records):
        raise UsageError(f"dataset {path}#{number}", f"the file has {len(records)} rows",
                         f"write #{len(records)} or less, or leave #N out to take all")
    chosen = sorted(random.Random(seed).sample(range(len(records)), number))
    return [records[i] for i in chosen]


def _report_unread(source: str, records: Sequence[Record]) -> None:
    """One warning a source for the keys that nothing reads; a near name shows a slip of the pen."""
    counts = Counter(key for r in records for key in list_unread(r.data, find_form(r.data, r.position)))
    known = set().union(*FORMS.values())
    said = [f"{key}{hint_key(key, known)} in {n}" for key, n in sorted(counts.items())]
    if said:
        _log.warning("%s, %d rows: keys that are not read: %s", source, len(records), ", ".join(said))
