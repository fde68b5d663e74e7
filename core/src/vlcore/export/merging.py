"""Merging: base model and adapter become one model in the release's layout, a few tensors at a time."""

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
from vlcore.export.merger import Merger
from vlcore.plugins import get_registry
from vlcore.resolve import resolve_model
from vlcore.shards import describe_tensors, list_files, read_tensors, write_tensors
from vlcore.weights import copy_others, read_quantization

if TYPE_CHECKING:
    import torch

    from vlcore.resolve import Checkpoint


def merge(
    checkpoint: str | Path, output: str | Path = "", *, overwrite: bool = False, model: str = ""
) -> Path:
    """Writes the model that an adapter makes of its base, W + AB.

    Of the base only the tensors that are merged next are in memory, in float32, also after a quantized training;
    the sum is rounded once, to the dtype that each tensor has in the base's files. All others keep their bits.

    Args:
        checkpoint: a folder with an adapter.
        output: the folder to write; `CHECKPOINT-merged` when left out.
        overwrite: whether that folder may be there already.
        model: the base model, when it is not where it was at training.

    Returns:
        The folder written, in the release's layout.

    Raises:
        UsageError: when there is no adapter, the base is quantized, or the output exists or is one of the
            folders read.
        CheckpointError: when files are missing, damaged or do not fit.
    """
    source = Path(checkpoint).expanduser()
    release, config = find_release(source, model)
    target = Path(output).expanduser() if output else source.with_name(source.name + "-merged")
    check_apart(target, [source, *(part.path for part in release.weight_folders)])
    with new_folder(target, overwrite) as folder:
        write_merged(release, config, source, folder)
        write_origin(release, folder)
        carry_run(source, folder, release)
    return target


def find_release(adapter: Path, model: str = "") -> tuple[Checkpoint, LoadConfig]:
    """The base that an adapter is merged into, and how it is loaded.

    Raises:
        UsageError: when the folder holds no adapter, or the base is quantized.
        CheckpointError: when the base is not where it was.
    """
    if not (adapter / ADAPTER_CONFIG).is_file():
        check_level(adapter)
        why = "it holds no adapter" if adapter.is_dir() else "there is no such folder"
        raise UsageError(f"merging {adapter}", why, "give a checkpoint of sft_type lora")
    config = replace(LoadConfig(model=model) if model else find_base(adapter), dtype="fp32", device_map="cpu")
    release = resolve_model(config)
    check_unquantized(release)
    return release, config


def check_unquantized(release: Checkpoint) -> None:
    """Refuses a model of quantized weights.

    Raises:
        UsageError: saying what to name instead.
    """
    if release.config.get("quantization_config") or read_quantization(release.folder):
        why = "its weights are quantized, and what is made of them would be rounded to their few values"
        do = "name the same model in full precision with --model, or use it as it is"
        raise UsageError(f"model {release.folder}", why, do)


def check_apart(target: Path, read: Iterable[Path]) -> None:
    """Refuses to write over what is read, even where overwriting is allowed.

    Raises:
        UsageError: naming the folder that would be lost.
    """
    for folder in read:
        if folder.resolve().is_relative_to(target.resolve()):
            raise UsageError(f"output {target}", f"it would replace {folder}, which is read", "give another folder")


def write_merged(release: Checkpoint, config: LoadConfig, adapter: Path, folder: Path) -> None:
    """Writes a base with an adapter merged into it in the release's layout.

    A plugin that fills the hook `merge` is given the whole model in float32, as the hook promises.
    """
    if get_registry().fills("merge", release.owner):
        adapted = load_adapter(release.call("load_model", config=config), adapter)
        release.call("merge", model=adapted.merge_and_unload(safe_merge=True), output=folder)
        for part in release.weight_folders:
            restore_dtypes(part.path, folder / part.inside)
        return
    from tqdm import tqdm

    merger = Merger(release.call("load_model", config=replace(config, device_map="meta")), release, adapter)
    copy_others(release, folder)
    with tqdm(total=merger.size, unit="B", unit_scale=True, desc="merging") as bar:
        merger.write(folder, bar.update)


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
