"""The processes of one training: which one this is, what the first tells the others, what they write together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vlcore.checkpoint import new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainingArguments

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those of a training.

    Attributes:
        rank: its number; the first is 0, writes the files and speaks.
        local: its number on its machine, and that of its GPU.
        world: how many there are.
    """

    rank: int = 0
    local: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the first."""
        return self.rank == 0

    def share(self, make: Callable[[], _Value]) -> _Value:
        """What the first process makes, in all of them."""
        import torch.distributed as dist

        held: list[Any] = [make() if self.is_first else None]
        if self.world > 1:
            dist.broadcast_object_list(held)
        value: _Value = held[0]
        return value

    def wait(self) -> None:
        """Returns when all processes are here."""
        import torch.distributed as dist

        if self.world > 1:
            dist.barrier()

    @contextmanager
    def write_folder(self, target: Path) -> Iterator[Path]:
        """A folder that all processes write into; it takes the target's name when all of them are done."""
        with new_folder(target, overwrite=True) if self.is_first else nullcontext(target) as made:
            folder = self.share(lambda: made)
            yield folder
            self.wait()
        self.wait()

    def choose_device(self, asked: str) -> str:
        """`device_map` for this process: of several, each takes a GPU of its own."""
        import torch

        if self.world == 1 or not torch.cuda.is_available():
            return asked
        return f"cuda:{self.local}" if asked == "auto" else asked


@contextmanager
def join_processes() -> Iterator[Place]:
    """A scope in which the processes that torchrun started know each other; only the first speaks."""
    place = Place(*(int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1))))
    if "RANK" not in os.environ:
        yield place
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(place.local)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not place.is_first:
        logging.getLogger().setLevel(logging.ERROR)
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield place
    finally:
        dist.destroy_process_group()


def place_arguments(arguments: TrainingArguments, place: Place) -> None:
    """Tells accelerate of the processes: under DeepSpeed on a CPU it takes each for the only one.

    All of them would then train on the same rows.
    """
    state = arguments.distributed_state
    if state is not None and state.num_processes != place.world:
        state.num_processes, state.process_index, state.local_process_index = place.world, place.rank, place.local


def is_divided() -> bool:
    """Whether each process has only a share of every weight, which is ZeRO-3's way."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return bool(is_deepspeed_zero3_enabled())


@contextmanager
def gather_weights(model: PreTrainedModel) -> Iterator[None]:
    """A scope in which every process has all weights whole."""
    if not is_divided():
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        yield
