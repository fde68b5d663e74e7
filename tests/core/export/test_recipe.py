from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vlcore.cli import main
from vlcore.config import ExportConfig, LoadConfig, LoraConfig
from vlcore.errors import CheckpointError, UsageError
from vlcore.export.recipe import export, find_coarsest, name_full_disk
from vlcore.lora import add_adapters
from vlcore.model import open_model
from vlcore.resolve import open_checkpoint
from vlcore.shards import read_tensors, write_tensors

CPU = LoadConfig(dtype="fp32", device_map="cpu")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlcore_internvl import tiny

    folder = tmp_path_factory.mktemp("release")
    tiny.write_tiny(folder, tile=28, width=64, layers=1, texts=["What is in the picture?"])
    return folder


@pytest.fixture
def adapter(release: Path, tmp_path: Path) -> Path:
    """An adapter with a visible effect, in a folder that knows its base."""
    checkpoint = open_checkpoint(release)
    adapted = add_adapters(checkpoint, checkpoint.call("load_model", config=CPU), LoraConfig())
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_merged_model_is_proven_in_a_fresh_process(adapter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--ckpt_dir", adapter, "--merge_lora", "true") == 0
    output = adapter.with_name("adapter-merged")
    said = capfd.readouterr().out
    assert "1 of 1 answers equal" in said and f"merged: {output}" in said
    proof = json.loads((output / "proof.json").read_text("utf8"))
    assert proof["passed"] and proof["dtype"] == proof["rounded_to"] == "float32" and proof["equal_answers"] == 1
    assert proof["max_difference"] <= 1e-4 * proof["largest_logit"] < proof["mean_effect_of_adapter"]
    assert proof["source"] == "a made-up question about a picture" and proof["versions"]["torch"] == torch.__version__


def test_a_model_that_differs_is_kept_under_a_name_that_says_so(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from vlcore.export import recipe as module

    write = module.write_merged

    def spoil(*given: Any) -> None:
        write(*given)
        path = given[-1] / "model.safetensors"
        tensors = read_tensors(path)
        tensors["language_model.lm_head.weight"] = tensors["language_model.lm_head.weight"].flip(0)
        write_tensors(path, tensors)

    monkeypatch.setattr(module, "write_merged", spoil)
    assert run("--ckpt_dir", adapter, "--merge_lora", "true") == CheckpointError.exit_code
    said = capfd.readouterr().err
    kept = adapter.with_name("adapter-merged.unproven")
    assert "it is not the same model: 0 of 1 answers equal" in said and str(kept / "proof.json") in said
    assert json.loads((kept / "proof.json").read_text("utf8"))["passed"] is False
    assert sorted(path.name for path in adapter.parent.iterdir()) == ["adapter", "adapter-merged.unproven"]
    monkeypatch.setattr(module, "write_merged", write)
    with pytest.raises(UsageError, match=r"unproven: it exists"):
        export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True, verify=False))


def test_a_model_that_cannot_be_loaded_again_is_kept_too(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcore.export import recipe as module

    write = module.write_merged

    def spoil(*given: Any) -> None:
        write(*given)
        os.truncate(given[-1] / "model.safetensors", 1000)

    monkeypatch.setattr(module, "write_merged", spoil)
    with pytest.raises(CheckpointError, match="it could not be made .*it is not whole"):
        export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True))
    assert (adapter.with_name("adapter-merged.unproven") / "config.json").is_file()


def test_a_native_folder_is_loaded_by_transformers_alone(adapter: Path, release: Path) -> None:
    from transformers import AutoModelForImageTextToText, InternVLForConditionalGeneration

    result = export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True, layout="native"))
    assert result.folder == adapter.with_name("adapter-merged-native") and "1 of 1 answers equal" in result.proof
    model, report = AutoModelForImageTextToText.from_pretrained(result.folder, output_loading_info=True)
    assert type(model) is InternVLForConditionalGeneration and not any(report.values())
    assert json.loads((result.folder / "config.json").read_text("utf8"))["model_type"] == "internvl"
    assert (result.folder / "tokenizer_config.json").read_bytes() == (release / "tokenizer_config.json").read_bytes()


def test_a_full_model_is_written_in_the_native_layout_with_its_own_bits(release: Path, tmp_path: Path) -> None:
    config = ExportConfig(ckpt_dir=str(release), layout="native", output_dir=str(tmp_path / "native"), verify=False)
    written = read_tensors(export(config).folder / "model.safetensors")
    native = open_checkpoint(release).call("load_model", config=CPU).state_dict()
    assert written.keys() == native.keys()
    assert all(torch.equal(tensor, native[name]) for name, tensor in written.items())


def test_a_setting_that_transformers_does_not_have_is_refused(release: Path, tmp_path: Path) -> None:
    config = json.loads((release / "config.json").read_text("utf8")) | {"ps_version": "v1"}
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "config.json").write_text(json.dumps(config), "utf8")
    for path in release.iterdir():
        if path.name != "config.json":
            (tmp_path / "v1" / path.name).symlink_to(path)
    with pytest.raises(UsageError, match="no class that is built as models of family internvl"):
        export(ExportConfig(ckpt_dir=str(tmp_path / "v1"), layout="native"))


def test_a_family_that_transformers_does_not_have_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from vlcore_qwen_vl import tiny

    (tmp_path / "qwen").mkdir()
    tiny.write_tiny(tmp_path / "qwen", texts=["a"], layers=1)
    with pytest.raises(UsageError, match="no class that is built as models of family"):
        export(ExportConfig(ckpt_dir=str(tmp_path / "qwen"), layout="native"))
    assert [path.name for path in tmp_path.iterdir()] == ["qwen"]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_export_is_loaded_as_it_was_written(bits: int, adapter: Path) -> None:
    result = export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True, quant_bits=bits, verify=bits == 4))
    assert result.folder == adapter.with_name(f"adapter-merged-int{bits}")
    assert ("allowed for int4" in result.proof) == (bits == 4)
    module = open_model(LoadConfig(model=str(result.folder), dtype="fp32", device_map="cpu")).module
    assert type(module.model.language_model.layers[0].self_attn.q_proj).__name__.startswith(f"Linear{bits}bit")
    with pytest.raises(UsageError, match="is quantized already"):
        open_model(LoadConfig(model=str(result.folder), quantization_bit=4))
    with pytest.raises(UsageError, match="its weights are quantized"):
        export(ExportConfig(ckpt_dir=str(result.folder), layout="native"))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "nothing says what to export"),
        ({"ckpt_dir": "x"}, "nothing would change"),
        ({"ckpt_dir": "x", "merge_lora": True, "quant_bits": 3}, "there are 4 and 8 bit"),
        ({"ckpt_dir": "x", "merge_lora": True, "quant_bits": 4, "layout": "native"}, "a quantized export is one that"),
    ],
)
def test_settings_that_say_nothing_or_exclude_each_other_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        ExportConfig(**given)


def test_what_cannot_be_exported_is_refused_with_what_to_do(adapter: Path, tmp_path: Path) -> None:
    make: Callable[..., ExportConfig] = lambda folder, **more: ExportConfig(ckpt_dir=str(folder), **more)  # noqa: E731
    with pytest.raises(UsageError, match="add --merge_lora true"):
        export(make(adapter, layout="native"))
    with pytest.raises(UsageError, match="there is no such folder"):
        export(make(tmp_path / "nowhere", layout="native"))
    with pytest.raises(UsageError, match="which is read"):
        export(make(adapter, merge_lora=True, output_dir=str(tmp_path / "adapter"), overwrite=True))
    os.truncate(adapter / "adapter_model.safetensors", 100)
    with pytest.raises(CheckpointError, match="it cannot be loaded"):
        export(make(adapter, merge_lora=True))
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    from vlcore_internvl import tiny

    tiny.write_tiny(tmp_path / "other", tile=28, width=128, layers=1)
    with pytest.raises(CheckpointError, match="check that it belongs to this model"):
        export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True, model=str(tmp_path / "other")))


def test_too_little_room_is_said_before_anything_is_written(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(CheckpointError, match=r"the disk has 0\.00 GB left"):
        export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True))


def test_a_disk_that_fills_up_leaves_nothing_behind(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.pwrite", fail)
    with pytest.raises(CheckpointError, match="the disk is full .*; make room"):
        export(ExportConfig(ckpt_dir=str(adapter), merge_lora=True))
    assert [path.name for path in adapter.parent.iterdir()] == ["adapter"]
    from safetensors import SafetensorError

    with pytest.raises(CheckpointError, match="the disk is full"), name_full_disk(adapter):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_the_coarsest_dtype_sets_the_tolerance(release: Path, tmp_path: Path) -> None:
    assert find_coarsest(open_checkpoint(release)) == "float32"
    (tmp_path / "config.json").write_bytes((release / "config.json").read_bytes())
    tensors = read_tensors(release / "model.safetensors")
    write_tensors(tmp_path / "model.safetensors", {name: tensor.bfloat16() for name, tensor in tensors.items()})
    assert find_coarsest(open_checkpoint(tmp_path)) == "bfloat16"
