"""Sources become rows: sampled, weighed, and split into those to train on and those to evaluate on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlcore.config import DataConfig
from vlcore.dataset.names import Name, open_records, parse_name
from vlcore.dataset.row import ReadOptions, Row, make_read_options
from vlcore.dataset.rows import Rows, Source
from vlcore.dataset.tally import Tally
from vlcore.errors import DataError, UsageError
from vlcore.family import ModelFamily, ModelRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Numbers = NDArray[numpy.int64]


def open_rows(
    sources: Sequence[str], options: ReadOptions | None = None, weights: Sequence[float] = (), token: str = ""
) -> Rows:
    """The rows of sources, one source after the other, none read yet.

    Args:
        sources: files, folders, registered names or hub ids, each with `#N` to sample N of its rows.
        options: how they are read.
        weights: one a source: how often its rows are there. 2 is each row twice, 0.5 half of the rows, chosen by
            the seed; empty is each row once.
        token: for private data sets on a hub.

    Raises:
        UsageError: for a source that is not there, or has fewer rows than N.
        DataError: for a source that cannot be read as a whole; single rows raise when they are read.
    """
    options = options or ReadOptions()
    return weigh_rows(*_open_all(sources, options, token), weights, options.seed)


def read_rows(source: str, options: ReadOptions | None = None) -> list[Row]:
    """All rows of a source, read; one warning for the keys that nothing reads.

    Raises:
        UsageError: as `open_rows`.
        DataError: for the first row that cannot be read, naming file, line and field.
    """
    rows, tally = list(open_rows([source], options)), Tally()
    for row in rows:
        tally.add(row)
    tally.warn_unread()
    return rows


def find_faults(source: str, options: ReadOptions | None = None) -> list[DataError]:
    """What is wrong with the rows of a source, one fault a row; empty when all can be read."""
    rows, faults = open_rows([source], options), []
    for index in range(len(rows)):
        try:
            rows[index]
        except DataError as fault:
            faults.append(fault)
    return faults


def read_datasets(
    config: DataConfig, family: ModelFamily, record: ModelRecord | None = None
) -> tuple[Rows, Rows]:
    """The rows to train on and the rows to evaluate on, none read yet.

    What is worth a word about them is counted where they are read (`vlcore.dataset.Tally`). Without `val_dataset`,
    `dataset_test_ratio` of the training rows is set aside, each row once; `dataset_weights` count for what stays.
    Rows of `val_dataset` may lack an answer.
    """
    token = str(getattr(config, "hub_token", ""))
    rows, owners = _open_all(config.dataset, make_read_options(config, family, record=record), token)
    if config.val_dataset:
        options = make_read_options(config, family, train=False, record=record)
        validation = open_rows(config.val_dataset, options, token=token)
    else:
        rows, validation = split_rows(rows, config.dataset_test_ratio, config.data_seed)
    return weigh_rows(rows, owners, config.dataset_weights, config.data_seed), validation


def split_rows(rows: Rows, ratio: float, seed: int = 42) -> tuple[Rows, Rows]:
    """The rows to keep and the rows set aside, both in their order.

    Args:
        rows: at least one stays; with two or more rows and a ratio above 0, at least one is set aside.
        ratio: the part to set aside, 0 to 1.
        seed: which rows are set aside depends on it and on the number of rows only.
    """
    import numpy

    if not 0 <= ratio <= 1:
        raise UsageError(f"dataset_test_ratio {ratio}", "it is a part of all", "give a number from 0 to 1")
    wanted = max(1, int(len(rows) * ratio)) if ratio else 0
    aside = numpy.zeros(len(rows), bool)
    aside[_sample(len(rows), max(0, min(wanted, len(rows) - 1)), seed)] = True
    return rows.select(numpy.flatnonzero(~aside)), rows.select(numpy.flatnonzero(aside))


def weigh_rows(rows: Rows, owners: Sequence[int], weights: Sequence[float], seed: int) -> Rows:
    """Rows as often as the weights of their sources say, source by source.

    Args:
        rows: the rows, each once.
        owners: for each of `rows.sources`, the number of its weight.
        weights: how often rows are there; empty for once.
        seed: chooses the rows of a weight's fraction.
    """
    import numpy

    if not weights:
        return rows
    parts = [numpy.empty(0, numpy.int64)]
    owned = numpy.asarray(owners, numpy.int64)[rows.numbers]
    for owner, weight in enumerate(weights):
        own = numpy.flatnonzero(owned == owner)
        whole, extra = int(weight), round((weight - int(weight)) * len(own))
        parts += [own] * whole + [own[_sample(len(own), extra, seed)]]
    return rows.select(numpy.concatenate(parts))


def _open_all(sources: Sequence[str], options: ReadOptions, token: str) -> tuple[Rows, list[int]]:
    """All rows once, and for each opened source the number of the source as it was typed."""
    import numpy

    opened: list[Source] = []
    owners: list[int] = []
    numbers, records = [numpy.empty(0, numpy.int64)], [numpy.empty(0, numpy.int64)]
    for owner, name in enumerate(map(parse_name, sources)):
        found = [Source(part, options) for part in open_records(name, token)]
        lengths = [len(source.records) for source in found]
        chosen = _choose(name, sum(lengths), options.seed)
        own = numpy.repeat(numpy.arange(len(found)), lengths)[chosen]
        begins = numpy.cumsum([0, *lengths[:-1]])
        numbers.append(own + len(opened))
        records.append(chosen - begins[own])
        opened += found
        owners += [owner] * len(found)
    return Rows(opened, numpy.concatenate(numbers), numpy.concatenate(records)), owners


def _choose(name: Name, total: int, seed: int) -> Numbers:
    import numpy

    if name.number > total:
        raise UsageError(f"dataset {name.text}#{name.number}", f"it has {total} rows",
                         f"write #{total} or less, or leave #N out to take all")
    return _sample(total, name.number, seed) if name.number else numpy.arange(total)


def _sample(total: int, count: int, seed: int) -> Numbers:
    """`count` of the numbers below `total`, in order."""
    import numpy

    return numpy.sort(numpy.array(random.Random(seed).sample(range(total), count), numpy.int64))
