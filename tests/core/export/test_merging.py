from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlcore.errors import CheckpointError, UsageError
from vlcore.merging import check_apart, merge, restore_dtypes


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it holds no adapter"):
        merge(tmp_path)
    with pytest.raises(UsageError, match="there is no such folder"):
        merge(tmp_path / "nowhere")


def test_a_runs_folder_is_refused_with_the_checkpoints_in_it(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(CheckpointError, match="give a checkpoint in it: checkpoint-4"):
        merge(tmp_path)


def test_what_is_read_is_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "run" / "checkpoint-4"
    check_apart(source / "merged", [source])
    check_apart(tmp_path / "run" / "checkpoint-4-merged", [source])
    for target in (source, tmp_path / "run", tmp_path / "run" / "x" / ".."):
        with pytest.raises(UsageError, match="which is read"):
            check_apart(target, [source])


def test_tensors_take_the_dtype_of_the_base(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "folder"
    base.mkdir()
    folder.mkdir()
    save_file({"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2)}, base / "model.safetensors")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, folder / "model.safetensors")
    restore_dtypes(base, folder)
    dtypes = {name: tensor.dtype for name, tensor in load_file(folder / "model.safetensors").items()}
    assert dtypes == {"a": torch.bfloat16, "b": torch.float32}


def test_bin_files_keep_their_dtype_too(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "folder"
    for place, dtype in ((base, torch.float16), (folder, torch.float32)):
        place.mkdir()
        torch.save({"a": torch.ones(2, dtype=dtype)}, place / "pytorch_model.bin")
    restore_dtypes(base, folder)
    assert torch.load(folder / "pytorch_model.bin", weights_only=True)["a"].dtype == torch.float16
