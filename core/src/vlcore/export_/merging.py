"""Merging: base model and adapter become one model in the release's layout."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.checkpoint import (
    ADAPTER_CONFIG,
    RUN_FILE,
    VALIDATION_FILE,
    check_level,
    find_base,
    load_adapter,
    new_folder,
    read_run,
    write_origin,
    write_run,
)
from vlcore.config import LoadConfig
from vlcore.errors import UsageError
from vlcore.resolve import resolve_model
from vlcore.shards import describe_tensors, list_files, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

    from vlcore.resolve import Checkpoint


def merge(
    checkpoint: str | Path, output: str | Path = "", *, overwrite: bool = False, model: str = ""
) -> Path:
    """Writes the model that an adapter makes of its base, W + AB.

    The base is read in float32 (four bytes a parameter of memory) also after a quantized training; the sum is
    rounded once, to the dtype each tensor has in the base's files, and all other tensors keep their bits.

    Args:
        checkpoint: a folder with an adapter.
        output: the folder to write; `CHECKPOINT-merged` when left out.
        overwrite: whether that folder may be there already.
        model: the base model, when it is not where it was at training.

    Returns:
        The folder written, in the release's layout.

    Raises:
        UsageError: when there is no adapter, or the output exists or is one of the folders read.
        CheckpointError: when files are missing, damaged or do not fit.
    """
    source = Path(checkpoint).expanduser()
    if not (source / ADAPTER_CONFIG).is_file():
        check_level(source)
        why = "it holds no adapter" if source.is_dir() else "there is no such folder"
        raise UsageError(f"merging {source}", why, "give a checkpoint of sft_type lora")
    target = Path(output).expanduser() if output else source.with_name(source.name + "-merged")
    base = LoadConfig(model=model) if model else find_base(source)
    config = replace(base, dtype="fp32", device_map="cpu")
    release = resolve_model(config)
    check_apart(target, [source, *(part.path for part in release.weight_folders)])
    with new_folder(target, overwrite) as folder:
        adapted = load_adapter(release.call("load_model", config=config), source)
        release.call("merge", model=adapted.merge_and_unload(safe_merge=True), output=folder)
        for part in release.weight_folders:
            restore_dtypes(part.path, folder / part.inside)
        write_origin(release, folder)
        carry_run(source, folder, release)
    return target


def check_apart(target: Path, read: Iterable[Path]) -> None:
    """Refuses to write over what is read, even where overwriting is allowed.

    Raises:
        UsageError: naming the folder that would be lost.
    """
    for folder in read:
        if folder.resolve().is_relative_to(target.resolve()):
            raise UsageError(f"output {target}", f"it would replace {folder}, which is read", "give another folder")


def restore_dtypes(base: Path, folder: Path) -> None:
    """Gives every tensor in a folder the dtype that the tensor of its name has in the base's files."""
    dtypes = read_dtypes(base)
    for path in list_files(folder):
        if any(tensor.dtype != dtypes.get(name, tensor.dtype) for name, tensor in describe_tensors(path).items()):
            tensors = read_tensors(path)
            write_tensors(path, {name: tensor.to(dtypes.get(name, tensor.dtype)) for name, tensor in tensors.items()})


def read_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """The dtype of each tensor in a folder's files, read without their data."""
    return {name: tensor.dtype for path in list_files(folder) for name, tensor in describe_tensors(path).items()}


def carry_run(source: Path, folder: Path, release: Checkpoint) -> None:
    """Takes the training's configuration and validation rows along, to evaluate the merged model on."""
    if (source / RUN_FILE).is_file():
        run = read_run(source)
        shutil.copyfile(run.validation, folder / VALIDATION_FILE)
        write_run(folder, run.config, release)
