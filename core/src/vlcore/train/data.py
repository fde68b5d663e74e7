"""Rows to training examples: lengths up front from image headers, pixels when a row is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from vlcore.batch import IGNORED, Example
from vlcore.dataset import Row, describe_placement, read_datasets, write_row
from vlcore.errors import DataError, VlcoreError
from vlcore.template import LossOn

if TYPE_CHECKING:
    from vlcore.config import DataConfig
    from vlcore.model import Frontend


class Examples(Dataset[Example]):
    """Rows as examples, encoded each time they are asked for.

    Raises:
        DataError: at access, for a row whose media can no longer be read.
    """

    def __init__(self, frontend: Frontend, rows: Sequence[Row], loss_on: LossOn) -> None:
        self.frontend, self.rows, self.loss_on = frontend, rows, loss_on

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        try:
            return self.frontend.encode(row.messages, train=True, loss_on=self.loss_on)
        except VlcoreError as error:
            raise name_row(row, error) from error


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a run.

    Attributes:
        train: rows to train on.
        validation: rows to evaluate on; may be empty.
        lengths: tokens of each training row.
        left_out: rows that are not used, with the reason.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    lengths: tuple[int, ...]
    left_out: tuple[tuple[Row, str], ...]

    @property
    def summary(self) -> str:
        """One line for the log."""
        lengths = sorted(self.lengths)
        span = f"{lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}"
        counts = f"{len(self.validation)} to evaluate on, {len(self.left_out)} left out"
        return f"{len(self.train)} rows to train on ({span}), {counts}; {describe_placement(self.train)}"


def load_data(frontend: Frontend, config: DataConfig) -> Selection:
    """The rows a configuration names, without those that are too long or have nothing to train.

    Raises:
        DataError: for rows that cannot be read, and when none is left to train on.
    """
    train, validation = read_datasets(config, frontend.checkpoint.family)
    train_lengths, train_out = measure_rows(frontend, train, config)
    validation_lengths, validation_out = measure_rows(frontend, validation, config)
    if not train_lengths:
        first = f"; the first: {train_out[0][1]}" if train_out else ""
        raise DataError(f"dataset {' '.join(config.dataset)}", f"no row is left to train on{first}",
                        "raise --max_length, or check the rows")
    return Selection(
        tuple(train[index] for index in train_lengths),
        tuple(validation[index] for index in validation_lengths),
        tuple(train_lengths.values()),
        (*train_out, *validation_out),
    )


def measure_rows(
    frontend: Frontend, rows: Sequence[Row], config: DataConfig
) -> tuple[dict[int, int], list[tuple[Row, str]]]:
    """Tokens of each usable row by its index, and the other rows with what is wrong with them."""
    from tqdm import tqdm

    lengths: dict[int, int] = {}
    left_out: list[tuple[Row, str]] = []
    for index, row in enumerate(tqdm(rows, desc="lengths", unit="row") if rows else ()):
        if row.messages[-1].role != "assistant":
            left_out.append((row, "it has no answer"))
            continue
        try:
            layout = frontend.plan(row.messages, train=True, loss_on=config.loss_on)
        except VlcoreError as error:
            raise name_row(row, error) from error
        if config.max_length and len(layout) > config.max_length:
            left_out.append((row, f"{len(layout)} tokens, max_length is {config.max_length}"))
        elif all(label == IGNORED for label in layout.labels):
            left_out.append((row, "no token counts in the loss"))
        else:
            lengths[index] = len(layout)
    return lengths, left_out


def name_row(row: Row, error: VlcoreError) -> DataError:
    """An error with the row's file and line in front."""
    return DataError(f"{row}: {error.given}", error.why, error.do)


def write_left_out(rows: Iterable[tuple[Row, str]], path: Path) -> None:
    """One line a row that is not used: file, line, reason."""
    path.write_text("".join(f"{row}: {why}\n" for row, why in rows), encoding="utf8")


def write_rows(rows: Iterable[Row], path: Path) -> None:
    """Rows in plain form, a line each; local media are absolute paths, so the file can be read anywhere."""
    lines = (json.dumps(write_row(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf8")
