"""Work over many rows, spread over processes, its results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

_Result = TypeVar("_Result")
#: Rows that are handed out at once.
CHUNK = 256
#: Below this many rows, starting processes takes longer than they save.
MANY = 4096


def spread(
    work: Callable[[Sequence[int]], _Result], indices: Sequence[int], what: str, processes: int | None = None
) -> Iterator[_Result]:
    """The results of a function for ever the next indices, with a progress bar.

    Args:
        work: takes a few indices; must be picklable where processes cannot be forked.
        indices: all of them.
        what: the bar's name.
        processes: how many work; 0 or 1 is this one alone, None as many as there are cores when it is worth it.
    """
    from torch import Generator
    from torch.utils.data import DataLoader
    from tqdm import tqdm

    if not len(indices):
        return
    if processes is None:
        processes = count_cores() if len(indices) >= MANY else 0
    chunks: Any = Chunks(work, indices)
    # A generator of its own: the order of a training must not depend on what was counted before it.
    loader: DataLoader[Any] = DataLoader(chunks, batch_size=None, collate_fn=keep, generator=Generator(),
                                         num_workers=processes if processes > 1 else 0)
    with tqdm(total=len(indices), desc=what, unit="row", delay=1) as bar, quiet_forks():
        for number, result in enumerate(loader):
            yield result
            bar.update(len(chunks.take(number)))


@dataclass(frozen=True, slots=True)
class Chunks:
    """The work as a data set of chunks, which is how PyTorch hands it to its processes."""

    work: Callable[[Sequence[int]], Any]
    indices: Sequence[int]

    def __len__(self) -> int:
        return (len(self.indices) + CHUNK - 1) // CHUNK

    def __getitem__(self, number: int) -> Any:
        return self.work(self.take(number))

    def take(self, number: int) -> Sequence[int]:
        """The indices of a chunk."""
        return self.indices[number * CHUNK : (number + 1) * CHUNK]


def keep(result: _Result) -> _Result:
    """A result as it is; PyTorch would make tensors of it."""
    return result


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def quiet_forks() -> Iterator[None]:
    """A scope in which tokenizers use no threads of their own, which no fork would survive, and do not warn of it."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
