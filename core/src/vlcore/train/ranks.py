"""The processes of one training: which one this is, what the first tells the others, what they write together."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vlcore.checkpoint import new_folder

if TYPE_CHECKING:
    from transformers import TrainingArguments

_Value = TypeVar("_Value")
#: Warnings about how libraries exchange tensors, which nobody who trains can do anything about.
NOISE = (
    r"`torch\.distributed\.\w+` is deprecated",
    "Grad strides do not match bucket view strides",
    "find_unused_parameters=True was specified",
    "FSDP2-wrapped module .* returned a view tensor",
)


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

    def share(self, make: Callable[[], _Value], *, slow: bool = False) -> _Value:
        """What the first process makes, in all of them.

        Args:
            make: makes it.
            slow: whether that may take longer than the other processes usually wait, which is half an hour.
        """
        import torch.distributed as dist

        group = dist.new_group(backend="gloo", timeout=timedelta(days=7)) if slow and self.world > 1 else None
        held: list[Any] = [make() if self.is_first else None]
        if self.world > 1:
            dist.broadcast_object_list(held, group=group)
        if group is not None:
            dist.destroy_process_group(group)
        value: _Value = held[0]
        return value

    def gather(self, value: _Value) -> list[_Value]:
        """What each process has, in all of them, in the order of their numbers."""
        import torch.distributed as dist

        held: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(held, value)
        return held

    def wait(self, *, slow: bool = False) -> None:
        """Returns when all processes are here; `slow` as of `share`."""
        import torch.distributed as dist

        if self.world == 1:
            return
        if not slow:
            dist.barrier()
            return
        group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        dist.barrier(group)
        dist.destroy_process_group(group)

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers, in all of them."""
        import torch
        import torch.distributed as dist

        if self.world == 1:
            return number
        held = torch.tensor([number], device="cuda" if torch.cuda.is_available() else "cpu")
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held)

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

    if place.local < torch.cuda.device_count():
        torch.cuda.set_device(place.local)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for noise in NOISE:
        warnings.filterwarnings("ignore", noise)
    if not place.is_first:
        logging.getLogger().setLevel(logging.ERROR)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield place
    # Not after an error: others may be in the midst of an exchange with this process, and leaving waits for it.
    dist.destroy_process_group()


def place_arguments(arguments: TrainingArguments, place: Place) -> None:
    """Tells accelerate of the processes: under DeepSpeed and FSDP on a CPU it takes each for the only one.

    All of them would then train on the same rows. It also divides models among GPUs alone, though PyTorch knows
    no difference: on CPUs it is told of GPUs, and keeps the device that it was given.
    """
    state = arguments.distributed_state
    if state is not None and state.num_processes != place.world:
        state.num_processes, state.process_index, state.local_process_index = place.world, place.rank, place.local
    if state is not None and arguments.fsdp and state.device.type == "cpu":
        from accelerate.utils import DistributedType

        state.distributed_type = DistributedType.MULTI_GPU
