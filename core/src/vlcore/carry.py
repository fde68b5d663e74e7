"""A release's weights written again: bytes are copied where nothing changes, and room is left where something does.

All is written as safetensors. A `.bin` file becomes one, since its format can carry code to whoever reads it next:
`pytorch_model-00001-of-00002.bin` is written as `model-00001-of-00002.safetensors`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.family import WeightFolder
from vlcore.layout import LayoutWriter, make_layout, read_layout
from vlcore.resolve import read_json
from vlcore.shards import SINGLE_FILES, describe_tensors, list_files, read_tensors, write_index

if TYPE_CHECKING:
    import torch

#: Numbers that are rounded and written at once.
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """Where a tensor is written, and in which dtype."""

    writer: LayoutWriter
    dtype: torch.dtype

    def fill(self, name: str, tensor: torch.Tensor) -> None:
        """Writes the tensor, rounded to its dtype."""
        pieces: Any = tensor.reshape(-1).split(PIECE)  # type: ignore[no-untyped-call]
        self.writer.write(name, (piece.to(self.dtype) for piece in pieces))


def carry_weights(
    folders: Iterable[WeightFolder], output: Path, changed: Collection[str], advance: Callable[[int], object]
) -> dict[str, Room]:
    """Writes the weights of a release again but for some tensors.

    Args:
        folders: where the release keeps its weights.
        output: the folder to write in.
        changed: names of tensors that are left out.
        advance: told the bytes written, step by step.

    Returns:
        The room of each changed tensor, for the caller to fill.
    """
    rooms: dict[str, Room] = {}
    for folder in folders:
        target = output / folder.inside
        target.mkdir(parents=True, exist_ok=True)
        carry_index(folder.path, target)
        for path in list_files(folder.path):
            tensors = describe_tensors(path)
            own = {name for name in changed if name in tensors and folder.reads(name)}
            writer = carry_file(path, target / name_safe(path.name), own, advance)
            rooms |= {name: Room(writer, tensors[name].dtype) for name in own}
    return rooms


def make_rooms(
    tensors: Mapping[str, torch.Tensor], output: Path, advance: Callable[[int], object]
) -> dict[str, Room]:
    """Room for tensors in new files with transformers' own names for them, divided as it divides large models.

    Args:
        tensors: on the `meta` device; shape and dtype say how much room.
        output: the folder to write in.
        advance: told the bytes written, step by step.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size="5GB")
    rooms: dict[str, Room] = {}
    for file, names in split.filename_to_tensors.items():
        own = {name: tensors[name] for name in names}
        writer = LayoutWriter(output / file, make_layout(own), advance)
        rooms |= {name: Room(writer, tensor.dtype) for name, tensor in own.items()}
    if split.is_sharded:
        write_index(output, SINGLE_FILES[0], split.tensor_to_filename, split.metadata["total_size"])
    return rooms


def carry_file(
    source: Path, target: Path, leave: Collection[str], advance: Callable[[int], object] = id
) -> LayoutWriter:
    """Writes a file of weights as safetensors; returns what writes the tensors that were left."""
    if source.suffix == ".safetensors":
        writer = LayoutWriter(target, read_layout(source), advance)
        writer.copy(source, leave)
        return writer
    tensors = read_tensors(source)
    writer = LayoutWriter(target, make_layout(tensors), advance)
    for name in tensors.keys() - set(leave):
        writer.write(name, [tensors[name]])
    return writer


def carry_index(source: Path, target: Path) -> None:
    """Writes the index of weights in several files, where a folder has one, with the names they get."""
    written = target / f"{SINGLE_FILES[0]}.index.json"
    for name in SINGLE_FILES:
        index = source / f"{name}.index.json"
        if (source / name).is_file():
            return
        if not index.is_file():
            continue
        if name.endswith(".safetensors"):
            shutil.copyfile(index, written)
        else:
            data = read_json(index)
            data["weight_map"] = {tensor: name_safe(file) for tensor, file in data["weight_map"].items()}
            written.write_text(json.dumps(data, indent=2) + "\n", encoding="utf8")
        return


def name_safe(file: str) -> str:
    """The name under which a file of weights is written.

    >>> name_safe("pytorch_model-00001-of-00002.bin"), name_safe("model.safetensors")
    ('model-00001-of-00002.safetensors', 'model.safetensors')
    """
    return file if not file.endswith(".bin") else file.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"
