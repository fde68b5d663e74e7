"""Safetensors files as bytes: where each tensor lies, so that a file is written without being held in memory.

A file is the length of its header (8 bytes, little endian), the header in JSON, and the tensors without gaps:
https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Bytes that are copied at once, between two steps of a progress bar.
STEP = 1 << 26
#: Systems and file systems that cannot copy within the kernel say so with one of these.
_NO_KERNEL_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's first bytes, up to its first tensor, and from where to where each tensor lies in it."""

    header: bytes
    spans: Mapping[str, tuple[int, int]]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return max((end for _, end in self.spans.values()), default=len(self.header))

    def list_gaps(self, names: Collection[str]) -> Iterator[tuple[int, int]]:
        """What lies around the named tensors, from where to where, the header included."""
        at = 0
        for start, end in sorted(self.spans[name] for name in names):
            if start > at:
                yield at, start
            at = end
        if at < self.size:
            yield at, self.size


def read_layout(path: Path) -> Layout:
    """The layout of a file that is there."""
    with path.open("rb") as file:
        length = file.read(8)
        text = file.read(int.from_bytes(length, "little"))
    entries = json.loads(text)
    entries.pop("__metadata__", None)
    first = 8 + len(text)
    spans = {name: entry["data_offsets"] for name, entry in entries.items()}
    return Layout(length + text, {name: (first + start, first + end) for name, (start, end) in spans.items()})


def make_layout(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """The layout of a new file; of the tensors (on any device, `meta` as well) only dtype and shape are used."""
    entries: dict[str, dict[str, object]] = {"__metadata__": {"format": "pt"}}
    spans, at = {}, 0
    # Wide elements first, so that all lie at a multiple of their size.
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        spans[name] = (at, at + tensor.numel() * tensor.element_size())
        entries[name] = {"dtype": _name_dtype(tensor.dtype), "shape": list(tensor.shape), "data_offsets": spans[name]}
        at = spans[name][1]
    text = json.dumps(entries, separators=(",", ":")).encode("utf8")
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {name: (first + start, first + end) for name, (start, end) in spans.items()})


class LayoutWriter:
    """Fills a file of a known layout, in any order.

    Args:
        path: the file, replaced when it is there.
        layout: where its tensors go.
        advance: told the bytes written so far.
    """

    def __init__(self, path: Path, layout: Layout, advance: Callable[[int], object]) -> None:
        self.path, self.layout, self.advance = path, layout, advance
        with path.open("wb") as file:
            file.write(layout.header)
            file.truncate(layout.size)

    def copy(self, source: Path, leave: Collection[str]) -> None:
        """Takes everything but the tensors to leave from a file of the same layout."""
        with source.open("rb") as old, self.path.open("rb+") as new:
            for start, end in self.layout.list_gaps(leave):
                for at in range(start, end, STEP):
                    count = min(STEP, end - at)
                    copy_range(old.fileno(), new.fileno(), at, count)
                    self.advance(count)

    def write(self, name: str, pieces: Iterable[torch.Tensor]) -> None:
        """Writes a tensor where it belongs, in pieces one behind the other.

        Raises:
            ValueError: when they are longer or shorter than its place.
        """
        at, end = self.layout.spans[name]
        with self.path.open("rb+", buffering=0) as file:
            for piece in pieces:
                data = view_bytes(piece)
                if at + len(data) > end:
                    break
                write_range(file.fileno(), data, at)
                self.advance(len(data))
                at += len(data)
            else:
                if at == end:
                    return
        raise ValueError(f"{name} is not as long as its place in {self.path.name}")


def view_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's numbers as bytes."""
    import torch

    array: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def write_range(target: int, data: memoryview, at: int) -> None:
    """Writes all bytes at a place of an open file."""
    while data:
        done = os.pwrite(target, data, at)
        data, at = data[done:], at + done


def copy_range(source: int, target: int, at: int, count: int) -> None:
    """Copies bytes to the same place of another open file, within the kernel where it can.

    Raises:
        EOFError: when the source ends before.
    """
    while count:
        try:
            done = os.copy_file_range(source, target, count, at, at)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            done = os.pwrite(target, os.pread(source, count, at), at)
        except AttributeError:  # outside of Linux
            done = os.pwrite(target, os.pread(source, count, at), at)
        if not done:
            raise EOFError("the file is shorter than its header says")
        at, count = at + done, count - done


@cache
def _name_dtype(dtype: torch.dtype) -> str:
    """What the format calls a dtype, as its library writes it."""
    import torch
    from safetensors.torch import save

    written = save({"x": torch.empty(0, dtype=dtype)})
    name: str = json.loads(written[8:])["x"]["dtype"]
    return name
