"""Rows to training examples: what is used is known before the run, pixels are made when a row is needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from vlcore.batch import IGNORED, Example, Layout
from vlcore.budget import Overflow, fit, reduce
from vlcore.dataset import Position, Row, Rows, read_datasets, write_row
from vlcore.dataset.tally import Tally
from vlcore.errors import DataError, VlcoreError
from vlcore.forecast import Unanswered, check_answered, check_trained, name_row
from vlcore.train.ranks import Place
from vlcore.train.stock import Stock, take_stock, write_fault

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from vlcore.config import DataConfig
    from vlcore.model import Frontend

#: The list of rows that could not be used while training, in the run's folder.
SKIPPED_FILE = "skipped.txt"


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a run.

    Attributes:
        train: rows to train on.
        validation: rows to evaluate on; may be empty.
        lengths: tokens of each training row; None when no forecast was made. `validation_lengths` alike.
        steps: how often each training row is reduced to fit. `validation_steps` alike.
        left_out: a line a row that is not used, with the reason.
        reduced: a line a row that is reduced to fit.
        tally: where media were put, and keys that nothing reads.
    """

    train: Rows
    validation: Rows
    lengths: NDArray[numpy.int32] | None = None
    steps: NDArray[numpy.uint16] | None = None
    validation_lengths: NDArray[numpy.int32] | None = None
    validation_steps: NDArray[numpy.uint16] | None = None
    left_out: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)

    @property
    def summary(self) -> str:
        """One line for the log."""
        if self.lengths is None:
            return (f"{len(self.train)} rows to train on, {len(self.validation)} to evaluate on; "
                    "no forecast, each is judged when it comes")
        lengths = self.lengths.copy()
        lengths.sort()
        span = f"{lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}"
        counts = f"{len(self.validation)} to evaluate on, {len(self.left_out)} left out"
        reduced = f", {len(self.reduced)} reduced to fit" if self.reduced else ""
        return f"{len(self.train)} rows to train on ({span}), {counts}{reduced}; {self.tally.describe_placement()}"


class Examples(Dataset[Example]):
    """Rows as examples, encoded each time they are asked for.

    A row that cannot be used, and may be skipped, becomes an empty example, so that the rows of other processes
    and the order stay as they are.

    Raises:
        DataError: at access, naming file and line, for a row that can no longer be used.
    """

    def __init__(
        self, frontend: Frontend, rows: Rows, config: DataConfig, *, lengths: NDArray[numpy.int32] | None = None,
        steps: NDArray[numpy.uint16] | None = None, skipped: Path | None = None,
    ) -> None:
        """Encodes nothing yet.

        Args:
            frontend: encodes the rows.
            rows: the rows.
            config: what is done about long and faulty rows, and what counts in the loss.
            lengths: tokens that each row must have, of shape (rows,); None to judge a row when it comes.
            steps: how often each row is reduced, of shape (rows,); goes with `lengths`.
            skipped: file that a line is added to for each row that is skipped.
        """
        self.frontend, self.rows, self.config = frontend, rows, config
        self.lengths, self.steps, self.skipped = lengths, steps, skipped

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        try:
            row = self.rows[index]
            return self.judge(row) if self.lengths is None else self.encode_as_forecast(row, index)
        except (VlcoreError, OSError) as error:
            fault = name_fault(self.rows.locate(index), error)
            if not self.may_skip(fault):
                raise fault from error
            if self.skipped:
                add_line(self.skipped, write_fault(fault))
        return make_empty(self.frontend.tokenizer.pad_id)

    def encode_as_forecast(self, row: Row, index: int) -> Example:
        """A row reduced as was found before the run.

        Raises:
            DataError: when it has another length now.
        """
        assert self.lengths is not None
        step = 0 if self.steps is None else int(self.steps[index])
        taken = reduce(self.frontend, row.messages, self.config.on_overflow, step)
        example = self.frontend.encode(taken.messages, train=True, loss_on=self.config.loss_on, **taken.options)
        if len(example) != self.lengths[index]:
            why = f"they have changed since lengths were taken ({self.lengths[index]} tokens then, {len(example)} now)"
            raise row.fault("media", why, "start again: lengths are taken anew where files have changed; for media "
                            "behind URLs, remove the folder .vlcore beside the data file first")
        return example

    def judge(self, row: Row) -> Example:
        """A row of which nothing was known before."""
        check_answered(row)
        config = self.config
        example = self.frontend.encode(row.messages, train=True, loss_on=config.loss_on)
        if config.max_length and len(example) > config.max_length:
            taken, _ = fit(self.frontend, row.messages, config.max_length, config.on_overflow,
                           train=True, loss_on=config.loss_on)
            example = self.frontend.encode(taken.messages, train=True, loss_on=config.loss_on, **taken.options)
        check_trained(row, example.labels)
        return example

    def may_skip(self, fault: DataError) -> bool:
        """Whether a row with this fault is left out instead of ending the run."""
        if isinstance(fault, Overflow) and self.config.on_overflow in ("error", "drop"):
            return self.config.on_overflow == "drop"
        return self.config.bad_rows == "skip" or isinstance(fault, Unanswered)


def load_data(frontend: Frontend, config: DataConfig, place: Place | None = None) -> Selection:
    """The rows a configuration names, all judged by the first process before the run.

    Args:
        frontend: plans the rows.
        config: which rows, and what is done about long and faulty ones.
        place: this process among those of the run.

    Raises:
        DataError: for rows that cannot be used, and when none is left to train on.
    """
    train, validation = read_datasets(config, frontend.checkpoint.family, frontend.checkpoint.record)
    if not config.forecast:
        return Selection(train, validation)
    both = join_rows(train, validation)
    stock = (place or Place()).share(lambda: _try_stock(frontend, both, config), slow=True)
    if isinstance(stock, VlcoreError):
        raise stock
    trains = stock.kept < len(train)
    if not trains.any():
        first = f"; the first: {stock.left_out[0]}" if stock.left_out else ""
        raise DataError(f"dataset {' '.join(config.dataset)}", f"no row is left to train on{first}",
                        "raise --max_length, or check the rows")
    return Selection(
        both.select(stock.kept[trains]), both.select(stock.kept[~trains]), stock.lengths[trains], stock.steps[trains],
        stock.lengths[~trains], stock.steps[~trains], stock.left_out, stock.reduced, stock.tally,
    )


def join_rows(first: Rows, second: Rows) -> Rows:
    """The rows of one data set and then those of another."""
    import numpy

    same = first.sources == second.sources
    numbers = second.numbers if same else second.numbers + len(first.sources)
    return Rows(
        first.sources if same else (*first.sources, *second.sources),
        numpy.concatenate([first.numbers, numbers]), numpy.concatenate([first.records, second.records]),
    )


def _try_stock(frontend: Frontend, rows: Rows, config: DataConfig) -> Stock | VlcoreError:
    """What is known of the rows, or the error, which other processes must hear of, too."""
    try:
        return take_stock(frontend, rows, config)
    except VlcoreError as error:
        return error


def name_fault(position: Position, error: VlcoreError | OSError) -> DataError:
    """An error as one of the row that stands there."""
    if isinstance(error, OSError):
        return position.fault("row", f"it cannot be read ({error.strerror or error})", "check the file")
    named = isinstance(error, DataError) and error.given.startswith(f"{position}:")
    return error if named else name_row(position, error)  # type: ignore[return-value]


def recover_fault(error: RuntimeError) -> DataError | None:
    """The fault of a row behind the error that PyTorch makes of it when a worker raises; None for other errors."""
    found = re.findall(r"^vlcore\.\S+: (.+): (.+?); (.+)$", str(error), re.MULTILINE)
    return DataError(*found[-1]) if "DataLoader worker" in str(error) and found else None


def make_empty(pad_id: int) -> Example:
    """An example that teaches nothing: one token that takes no part in the loss."""
    return Example(Layout((pad_id,), (IGNORED,), (), (), ""))


def add_line(path: Path, line: str) -> None:
    """Adds a line to a file that several processes write; it is never torn."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{line}\n".encode("utf8", "backslashreplace"))
    finally:
        os.close(handle)


def count_lines(path: Path) -> int:
    """How many different lines a list has; 0 when there is none. A row that is skipped in every epoch counts once."""
    return len(set(path.read_bytes().splitlines())) if path.is_file() else 0


def write_lines(lines: Iterable[str], path: Path) -> None:
    """A list, a line each."""
    with path.open("w", encoding="utf8", errors="backslashreplace") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_rows(rows: Rows, path: Path, *, skip: bool = False) -> None:
    """Rows in plain form, a line each; local media are absolute paths, so the file can be read anywhere.

    Args:
        rows: the rows; those without an answer are left out.
        path: the file.
        skip: whether rows that cannot be read are left out as well.

    Raises:
        DataError: for a row that cannot be read.
    """
    with path.open("w", encoding="utf8") as file:
        for index in range(len(rows)):
            try:
                row = rows[index]
                check_answered(row)
            except DataError as fault:
                if not skip and not isinstance(fault, Unanswered):
                    raise
            else:
                file.write(json.dumps(write_row(row), ensure_ascii=False) + "\n")
