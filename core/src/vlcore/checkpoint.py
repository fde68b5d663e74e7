"""What training leaves: folders that are whole or not there at all, and how they are read again.

A checkpoint folder holds the weights (PEFT's adapter files, or a release), the state to go on from, the
validation rows, and `sft_config.json`, which is written last and lists every other file with its size.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import LoadConfig, SftConfig, read_config, write_config
from vlcore.errors import CheckpointError, UsageError, first_line
from vlcore.lora import quiet_peft
from vlcore.resolve import ORIGIN_FILE, Checkpoint, read_json

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

#: The resolved configuration of a run, the model it trained, and the files of a checkpoint.
RUN_FILE = "sft_config.json"
#: The rows a run was evaluated on, media paths absolute.
VALIDATION_FILE = "val.jsonl"
ADAPTER_CONFIG = "adapter_config.json"
#: Beginnings of the files that only a resumed training needs.
STATE_FILES = (
    "optimizer", "scheduler", "scaler", "rng_state", "trainer_state",
    "global_step", "latest", "zero_to_fp32",  # DeepSpeed's
)


@dataclass(frozen=True, slots=True)
class Run:
    """What `sft_config.json` of a checkpoint (or of a folder merged from one) says.

    Attributes:
        folder: the folder it lies in.
        config: the resolved configuration of the training.
        model: `folder` (absolute, of the base model), `model_type`, `family`, and how media were placed.
        files: size in bytes of each file that was written, by name.
    """

    folder: Path
    config: SftConfig
    model: Mapping[str, Any]
    files: Mapping[str, int]

    @property
    def adapter(self) -> Path | None:
        """The folder when it holds an adapter; None for a full or merged model."""
        return self.folder if (self.folder / ADAPTER_CONFIG).is_file() else None

    @property
    def validation(self) -> Path:
        """The file with the validation rows; empty when the training had none."""
        return self.folder / VALIDATION_FILE

    @property
    def damaged(self) -> list[str]:
        """Names of files that are missing or not as long as they were written."""
        paths = {name: self.folder / name for name in self.files}
        return [n for n, path in paths.items() if not path.is_file() or path.stat().st_size != self.files[n]]

    def adopt(self, given: LoadConfig) -> LoadConfig:
        """How to load this model: what the caller gave, completed by what the training used."""
        return replace(
            given,
            model=given.model or str(self.folder),
            model_type=given.model_type or self.model["model_type"],
            option=(*self.config.option, *given.option),
        )


def read_run(folder: str | Path) -> Run:
    """The run behind a checkpoint folder, its weights checked for completeness.

    Raises:
        CheckpointError: when the folder is not one that training left, or files are missing or cut short.
    """
    folder = Path(folder).expanduser()
    check_level(folder)
    if not (folder / RUN_FILE).is_file():
        why = f"it has no {RUN_FILE}" if folder.is_dir() else "there is no such folder"
        raise CheckpointError(f"checkpoint {folder}", why, "give OUTPUT_DIR/MODEL/vN-DATE/checkpoint-STEP")
    data = read_json(folder / RUN_FILE)
    try:
        run = Run(folder, read_config(SftConfig, data["config"]), data["model"], data["files"])
    except (KeyError, TypeError, UsageError) as error:
        why = f"it is not of this version ({error})"
        raise CheckpointError(f"file {folder / RUN_FILE}", why, "use the version that wrote it") from error
    check_whole(folder, [name for name in run.damaged if not name.startswith(STATE_FILES)])
    return run


def check_level(folder: Path) -> None:
    """Raises CheckpointError for a run's folder, which holds checkpoints and is none."""
    steps = [path.name for path in list_checkpoints(folder)]
    if steps:
        do = f"give a checkpoint in it: {', '.join(steps)}"
        raise CheckpointError(f"folder {folder}", "it is a run's folder", do)


def check_whole(folder: Path, damaged: list[str]) -> None:
    """Raises CheckpointError when there are damaged files."""
    if damaged:
        raise CheckpointError(
            f"checkpoint {folder}", f"missing or cut short: {', '.join(damaged[:5])}", "use another one"
        )


def write_run(folder: Path, config: SftConfig, checkpoint: Checkpoint) -> None:
    """Writes `sft_config.json` with the files that are there; call it last. Secrets are left out."""
    written = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RUN_FILE]
    family = checkpoint.family
    model = {
        "folder": str(checkpoint.folder.resolve()),
        "model_type": checkpoint.record.name if checkpoint.record else "",
        "family": family.name,
        "place": family.place,
        "options": family.read_options(config.family_options, checkpoint.record),
    }
    data = {"config": write_config(replace(config, hub_token="")), "model": model,
            "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in written}}
    (folder / RUN_FILE).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf8")


def write_origin(checkpoint: Checkpoint, folder: Path) -> None:
    """Notes in a release-like folder which registered model it is, when that is known."""
    if checkpoint.record:
        text = json.dumps({"model_type": checkpoint.record.name})
        (folder / ORIGIN_FILE).write_text(text + "\n", encoding="utf8")


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoint folders of a run, by step."""
    found = [p for p in run_folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def find_base(folder: Path) -> LoadConfig:
    """The base model of an adapter: a folder or hub id, and what else says which weights it was trained on.

    Raises:
        CheckpointError: when the folder holds no adapter, or the base is not where it was.
    """
    base = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    run = read_json(folder / RUN_FILE) if (folder / RUN_FILE).is_file() else {}
    model = run.get("model", {})
    base = model.get("folder", base)
    if not base or (Path(base).is_absolute() and not Path(base).is_dir()):
        why = f"its base model was at {base}, which is not there" if base else "it names no base model"
        raise CheckpointError(f"adapter {folder}", why, "name the base model with --model")
    vision = run.get("config", {}).get("vision_tower", "")
    return LoadConfig(model=base, model_type=model.get("model_type", ""), vision_tower=vision)


def load_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, *, trainable: bool = False, name: str = "default"
) -> PeftModel:
    """A model with an adapter put on it, every tensor of the adapter used.

    Args:
        model: the base model, or one with other adapters on it.
        folder: PEFT's files.
        trainable: whether the adapter goes on learning.
        name: PEFT's name of the adapter.

    Raises:
        CheckpointError: when files are missing or damaged, or the adapter is of another model.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    weights = folder / "adapter_model.safetensors"
    read_json(folder / ADAPTER_CONFIG)
    try:
        with safe_open(weights, "pt") as file:
            given = set(file.keys())
        with quiet_peft():
            # Missing tensors are only warned of; they are compared below instead.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            if isinstance(model, PeftModel):
                adapted = model
                adapted.load_adapter(folder, name, is_trainable=trainable)
            else:
                adapted = PeftModel.from_pretrained(model, folder, name, is_trainable=trainable)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"adapter {folder}", f"it cannot be loaded ({reason})", "check that it belongs to this model"
        ) from error
    differing = sorted(given ^ set(get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False)))
    if differing:
        raise CheckpointError(
            f"adapter {folder}", f"{len(differing)} tensors do not fit the model: {', '.join(differing[:3])}",
            "check that it belongs to this model",
        )
    adapted.train(trainable)
    return adapted


@contextmanager
def new_folder(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write in that takes the target's name when the block ends well, and is removed when not.

    Args:
        target: the final name.
        overwrite: whether a folder of that name may be replaced.

    Raises:
        UsageError: when the target exists and may not be replaced.
        CheckpointError: when the disk is full; nothing is left of the folder.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"output {target}", "it exists", "give another folder, or --overwrite true")
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        sync_files(part)
        if target.exists():
            remove_folder(target)
        part.rename(target)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if is_full(error):
            raise CheckpointError(
                f"folder {target}", f"it cannot be written ({first_line(error)})",
                "make room on the disk; what was written before is whole") from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether a file could not be written for want of room; safetensors and torch have words of their own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    words = ("No space left", "Disk quota exceeded", "File too large", "PytorchStreamWriter", "inline_container")
    return any(word in str(error) for word in words) and type(error).__name__ in ("SafetensorError", "RuntimeError")


def sync_files(folder: Path) -> None:
    """Waits until the files are on the disk: renamed before that, a power cut could leave empty ones."""
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def remove_folder(folder: Path) -> None:
    """Removes a folder; its name is gone at once, so nobody meets half of it."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    shutil.rmtree(old)
