"""Files of tensors: which file of a folder holds which tensor, how they are read and written.

Both formats of the releases are known, safetensors and `.bin`; of the latter only tensors are taken
(`weights_only`), never code.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError
from vlcore.family import WeightFolder

if TYPE_CHECKING:
    import torch

#: What weights in one file are called, in the order in which transformers looks for them; weights in several
#: files have an index of this name and `.index.json`.
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")


def read_places(folder: Path) -> dict[str, str]:
    """The file of each tensor in a folder by name; empty when the folder holds no weights."""
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return dict.fromkeys(describe_tensors(folder / name), name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf8"))["weight_map"]
            return weight_map
    return {}


def list_files(folder: Path) -> list[Path]:
    """The files with weights in a folder, those that `read_places` names."""
    return [folder / name for name in sorted(set(read_places(folder).values()))]


def describe_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Shapes and dtypes of the tensors in a file by name, as tensors without data."""
    from transformers.modeling_utils import load_state_dict

    # A .bin file is mapped into memory on the CPU alone; as meta tensors it would be read to its end.
    place = "meta" if path.suffix == ".safetensors" else "cpu"
    found = load_state_dict(path, map_location=place, weights_only=True)
    return {name: tensor.to("meta") for name, tensor in found.items()}


def read_tensors(path: Path, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a file by name, on the CPU; all of them when no names are given."""
    from safetensors import safe_open
    from transformers.modeling_utils import load_state_dict

    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if names is None or name in names}  # noqa: SIM118
    found = load_state_dict(path, map_location="cpu", weights_only=True)
    return {name: tensor for name, tensor in found.items() if names is None or name in names}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Writes tensors into one file, in the format that its name says; a file of that name is replaced whole."""
    import torch
    from safetensors.torch import save_file

    whole = _separate({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    part = path.with_name(f".{path.name}.part")  # the tensors may be mapped from the file that is replaced
    if path.suffix == ".safetensors":
        save_file(whole, part, metadata={"format": "pt"})
    else:
        # A view would bring the whole storage it lies in along.
        torch.save({name: tensor.clone() for name, tensor in whole.items()}, part)
    part.replace(path)


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors that share no memory: safetensors refuses those that do, such as a head tied to the embeddings."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def write_index(folder: Path, name: str, places: Mapping[str, str], size: int) -> None:
    """Writes the index of weights in several files: the file of each tensor, and the bytes of all."""
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
    (folder / f"{name}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf8")


def open_folders(folders: Iterable[WeightFolder]) -> dict[str, Any]:
    """The tensors that a model reads from several folders by name, read when they are needed where possible.

    Raises:
        CheckpointError: when a folder holds no weights, or a tensor is in two of them.
    """
    opened: dict[str, Any] = {}
    for folder in folders:
        files = list_files(folder.path)
        if not files:
            raise CheckpointError(f"folder {folder.path}", "it holds no weights", "copy or download the release again")
        own = {name: tensor for path in files for name, tensor in _open_file(path).items() if folder.reads(name)}
        if twice := sorted(own.keys() & opened.keys()):
            raise CheckpointError(f"folder {folder.path}", f"{twice[0]} is elsewhere, too", "copy the release again")
        opened |= own
    return opened


def outline_folders(folders: Iterable[WeightFolder]) -> dict[str, torch.Tensor]:
    """Shapes and dtypes of the tensors that a model reads from several folders by name, as tensors without data."""
    found: dict[str, torch.Tensor] = {}
    for folder in folders:
        for path in list_files(folder.path):
            found |= {name: tensor for name, tensor in describe_tensors(path).items() if folder.reads(name)}
    return found


def _open_file(path: Path) -> dict[str, Any]:
    from safetensors import safe_open
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
    from transformers.modeling_utils import load_state_dict

    sharded = is_deepspeed_zero3_enabled()
    if path.suffix == ".safetensors" and not sharded:
        file: Any = safe_open(path, "pt")
        return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return load_state_dict(path, map_location="meta" if sharded and _rank() else "cpu", weights_only=True)


def _rank() -> int:
    """This process's number; under ZeRO-3 only the first one's values are used."""
    import torch

    return torch.distributed.get_rank()
