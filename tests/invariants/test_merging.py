"""A merged model is its base plus the adapter, in the release's layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import vlcore
from safetensors.torch import load_file, save_file
from vlcore.checkpoint import read_run
from vlcore.config import SftConfig
from vlcore.errors import UsageError
from vlcore.export.merging import merge
from vlcore.messages import user

MakeConfig = Callable[..., SftConfig]


@pytest.fixture
def trained(make_config: MakeConfig) -> Path:
    return vlcore.sft(make_config(lora_target_modules=("ALL",), max_steps=2, learning_rate=1e-2)).checkpoint


def find_picture(rows: Path) -> Path:
    return next(rows.parent.glob("*.png"))


def test_adapter_and_merged_model_agree(trained: Path, rows: Path, release: Path) -> None:
    merged = merge(trained)
    assert merged == trained.with_name("checkpoint-2-merged")
    models = [vlcore.load_model(folder) for folder in (trained, merged, release)]
    example = models[0].encode([user("Which colour?", [find_picture(rows)])])
    adapted, whole, base = (model.compute_logits(example)[0] for model in models)
    torch.testing.assert_close(whole, adapted, atol=1e-5, rtol=1e-5)
    assert (adapted - base).abs().max() > 1e-3


def test_a_merged_weight_is_w_plus_ab_and_the_rest_keeps_its_bits(
    make_config: MakeConfig, release: Path
) -> None:
    config = make_config(lora_target_modules=("o_proj",), max_steps=2, learning_rate=1e-2)
    trained = vlcore.sft(config).checkpoint
    adapter = load_file(trained / "adapter_model.safetensors")
    before, after = (load_file(folder / "model.safetensors") for folder in (release, merge(trained)))
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    pairs = [name for name in adapter if name.endswith("lora_A.weight")]
    assert len(changed) == len(pairs) > 0
    assert all("o_proj" in name for name in changed)
    for a, name in zip(sorted(pairs), sorted(changed), strict=True):
        update = adapter[a.replace("lora_A", "lora_B")] @ adapter[a] * (32 / 8)
        torch.testing.assert_close(after[name], before[name] + update)


def test_merging_twice_gives_the_same_files(trained: Path, tmp_path: Path, release: Path) -> None:
    first, second = merge(trained, tmp_path / "a"), merge(trained, tmp_path / "b")
    names = {path.name for path in first.iterdir()}
    released = {path.name for path in release.iterdir()}
    assert names - {"vlcore.json"} == released - {"vlcore.json"} | {"sft_config.json", "val.jsonl"}
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_an_existing_output_is_kept_unless_it_may_be_overwritten(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    output.mkdir()
    (output / "mine").touch()
    with pytest.raises(UsageError, match="it exists"):
        merge(trained, output)
    assert (output / "mine").exists()
    merge(trained, output, overwrite=True)
    assert not (output / "mine").exists()
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_tensors_keep_the_dtype_of_the_release(trained: Path, tmp_path: Path, release: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(release, half)
    tensors = load_file(release / "model.safetensors")
    mixed = {name: t if "norm" in name else t.to(torch.bfloat16) for name, t in tensors.items()}
    save_file(mixed, half / "model.safetensors", metadata={"format": "pt"})
    merged = load_file(merge(trained, tmp_path / "merged", model=str(half)) / "model.safetensors")
    assert {name: t.dtype for name, t in merged.items()} == {name: t.dtype for name, t in mixed.items()}


def test_the_validation_rows_come_along(trained: Path) -> None:
    merged = read_run(merge(trained))
    assert merged.validation.read_bytes() == (trained / "val.jsonl").read_bytes()
    assert merged.adapter is None


def test_only_an_adapter_can_be_merged(trained: Path) -> None:
    with pytest.raises(UsageError, match="it holds no adapter"):
        merge(merge(trained))


def test_a_quantized_training_is_merged_into_full_precision(make_config: MakeConfig) -> None:
    trained = vlcore.sft(make_config(quantization_bit=4, max_steps=2)).checkpoint
    merged = load_file(merge(trained) / "model.safetensors")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
