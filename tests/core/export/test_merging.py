from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlcore.config import LoadConfig, LoraConfig
from vlcore.errors import CheckpointError, UsageError
from vlcore.export.merging import check_apart, merge, restore_dtypes
from vlcore.lora import add_adapters
from vlcore.plugins import get_registry
from vlcore.resolve import open_checkpoint
from vlcore.weights import save_release


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


def test_a_plugin_that_writes_releases_itself_is_given_the_merged_model(
    use_plugins: Callable[..., Any], make_point: Any, make_plugin: Callable[..., Any], tmp_path: Path
) -> None:
    import vlcore_internvl
    from vlcore_internvl import tiny

    def write(checkpoint: Any, model: Any, output: Path) -> bool:
        save_release(checkpoint, model, output)
        (output / "mine.txt").write_text(str(next(model.parameters()).dtype))
        return True

    tiny.write_tiny(tmp_path / "base", tile=28, width=64, layers=1)
    checkpoint = open_checkpoint(tmp_path / "base")
    adapted = add_adapters(checkpoint, checkpoint.call("load_model", config=LoadConfig(dtype="fp32")), LoraConfig())
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    plain = merge(tmp_path / "adapter")
    assert not get_registry().fills("merge", "internvl")
    use_plugins(make_point("internvl", vlcore_internvl), make_point("mine", make_plugin(merge=write)))
    assert get_registry().fills("merge", "internvl") and not get_registry().fills("load_tokenizer", "other")
    own = merge(tmp_path / "adapter", tmp_path / "own")
    assert (own / "mine.txt").read_text() == "torch.float32"
    assert (own / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()
