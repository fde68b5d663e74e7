"""Export: what training left becomes a model for others, and is held against what it was made of."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.checkpoint import ADAPTER_CONFIG, check_level, new_folder, remove_folder, write_origin
from vlcore.config import ExportConfig, LoadConfig
from vlcore.errors import CheckpointError, UsageError, VlcoreError, first_line
from vlcore.export.merging import carry_run, check_apart, check_unquantized, find_release, write_merged
from vlcore.export.native import write_native
from vlcore.export.proof import PROOF_FILE, Subject, describe_proof, prove
from vlcore.export.quantized import write_quantized
from vlcore.resolve import resolve_model
from vlcore.shards import list_files, outline_folders

if TYPE_CHECKING:
    from vlcore.resolve import Checkpoint


@dataclass(frozen=True, slots=True)
class Exported:
    """The folder written, and the figures of its proof in one line; empty without one."""

    folder: Path
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """An export that has been checked: what is read, and where what is written goes.

    Attributes:
        source: the folder of the checkpoint.
        release: the base of its adapter, or the model itself.
        load: how that is loaded.
        target: the folder to write.
    """

    source: Path
    release: Checkpoint
    load: LoadConfig
    target: Path

    @property
    def unproven(self) -> Path:
        """Where the folder goes when it differs from what it was made of."""
        return self.target.with_name(self.target.name + ".unproven")


def export(config: ExportConfig) -> Exported:
    """Writes a model and proves it.

    Raises:
        UsageError: when there is nothing to export, or the output exists or would replace what is read.
        CheckpointError: when files are damaged, the disk is full, or what was written is not the same model.
    """
    plan = plan_export(config)
    with name_full_disk(plan.target), new_folder(plan.target, config.overwrite) as folder:
        write_model(plan, config, folder)
        proof = prove_export(plan, config, folder) if config.verify else ""
        if config.layout == "release":
            carry_run(plan.source, folder, plan.release)
    return Exported(plan.target, proof)


def plan_export(config: ExportConfig) -> Plan:
    """Everything that can be refused before anything is computed."""
    source = Path(config.ckpt_dir).expanduser()
    if config.merge_lora:
        release, load = find_release(source, config.model)
    else:
        release, load = find_model(source)
    ending = "-merged" if config.merge_lora else ""
    ending += "-native" if config.layout == "native" else ""
    ending += f"-int{config.quant_bits}" if config.quant_bits else ""
    target = Path(config.output_dir).expanduser() if config.output_dir else source.with_name(source.name + ending)
    plan = Plan(source, release, replace(load, dtype=config.dtype, device_map=config.device_map), target)
    check_apart(target, [source, *(part.path for part in release.weight_folders)])
    for folder in (target, plan.unproven):
        if folder.exists() and not config.overwrite:
            raise UsageError(f"output {folder}", "it exists", "give another folder, or --overwrite true")
    check_room(plan)
    return plan


def find_model(source: Path) -> tuple[Checkpoint, LoadConfig]:
    """The model in a folder that holds all its weights.

    Raises:
        UsageError: for a folder with an adapter, or a quantized model.
    """
    check_level(source)
    if (source / ADAPTER_CONFIG).is_file():
        raise UsageError(f"ckpt_dir {source}", "it holds an adapter, no model", "add --merge_lora true")
    if not source.is_dir():
        raise UsageError(f"ckpt_dir {source}", "there is no such folder", "give a checkpoint or a release")
    load = LoadConfig(model=str(source))
    release = resolve_model(load)
    check_unquantized(release)
    return release, load


def check_room(plan: Plan) -> None:
    """Refuses to begin what the disk has no room for.

    Raises:
        CheckpointError: with what is needed and what is free.
    """
    needed = sum(path.stat().st_size for part in plan.release.weight_folders for path in list_files(part.path))
    there = next(folder for folder in plan.target.resolve().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        why = f"the disk has {free / 1e9:.2f} GB left, and {needed / 1e9:.2f} GB will be written"
        raise CheckpointError(f"output {plan.target}", why, "make room, or give another folder with --output_dir")


@contextmanager
def name_full_disk(target: Path) -> Iterator[None]:
    """Turns what the libraries say of a full disk into one error that names the output."""
    try:
        yield
    except Exception as error:
        codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        full = isinstance(error, OSError) and error.errno in codes
        if full or "No space left on device" in str(error):
            why = f"the disk is full ({first_line(error)}); nothing of it is left behind"
            raise CheckpointError(f"output {target}", why, "make room, or give another --output_dir") from error
        raise


def write_model(plan: Plan, config: ExportConfig, folder: Path) -> None:
    """Writes the model as the configuration asks for it."""
    adapter = plan.source if config.merge_lora else None
    exact = replace(plan.load, dtype="fp32", device_map="cpu")
    if config.layout == "native":
        write_native(plan.release, exact, adapter, folder)
    elif config.quant_bits:
        write_quantized(plan.release, exact, adapter, folder, config.quant_bits)
    else:
        write_merged(plan.release, exact, plan.source, folder)
        write_origin(plan.release, folder)


def prove_export(plan: Plan, config: ExportConfig, folder: Path) -> str:
    """Holds what was written against the original, and writes the figures beside it.

    Raises:
        CheckpointError: when it is not the same model; the folder is kept under a name that says so.
    """
    original = Subject(plan.load, str(plan.source) if config.merge_lora else "")
    if config.layout == "native":
        exported = Subject(plan.load, native=str(folder))
    else:
        exported = Subject(replace(plan.load, model=str(folder), vision_tower=""))
    rounded = f"int{config.quant_bits}" if config.quant_bits else find_coarsest(plan.release)
    try:
        proof = prove(original, exported, plan.source, rounded)
    except VlcoreError as error:
        keep_unproven(folder, plan.unproven)
        do = f"what was written is kept as {plan.unproven}; --verify false leaves the comparison out"
        raise CheckpointError(f"proof of {plan.target}", f"it could not be made ({error})", do) from error
    (folder / PROOF_FILE).write_text(json.dumps(proof, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    if not proof["passed"]:
        keep_unproven(folder, plan.unproven)
        do = f"see {plan.unproven / PROOF_FILE}, and use {plan.source} as it is until the cause is known"
        raise CheckpointError(f"proof of {plan.target}", f"it is not the same model: {describe_proof(proof)}", do)
    return describe_proof(proof)


def keep_unproven(folder: Path, name: Path) -> None:
    """Keeps a folder under the name of what differs, in the place of an older one."""
    if name.exists():
        remove_folder(name)
    folder.rename(name)


def find_coarsest(release: Checkpoint) -> str:
    """The coarsest dtype among a release's tensors, to which merged values are rounded."""
    dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in outline_folders(release.weight_folders).values()}
    return next((name for name in ("bfloat16", "float16") if name in dtypes), "float32")
