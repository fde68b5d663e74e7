from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from vlcore.errors import CheckpointError, UsageError
from vlcore.weights import (
    check_files,
    check_report,
    choose_attention,
    choose_device,
    choose_dtype,
    keep_unpacked,
    save_release,
)


def test_a_whole_folder_is_not_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    check_files(tmp_path)


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(200)}, tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: it is not whole"):
        check_files(tmp_path)


def test_a_shard_of_the_index_that_is_missing_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf8")
    with pytest.raises(CheckpointError, match="model-00001-of-00002"):
        check_files(tmp_path)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({"missing_keys": {"b", "a"}}, "2 missing: a, b"),
        ({"unexpected_keys": {"c"}}, "1 left over: c"),
        ({"mismatched_keys": {("d", (1,), (2,))}}, "1 of another shape"),
        ({"missing_keys": {f"t{i:02d}" for i in range(12)}}, "and 2 more"),
    ],
)
def test_every_tensor_that_does_not_fit_is_an_error(report: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        check_report(report, tmp_path)
    assert words in str(raised.value)


def test_a_clean_report_passes(tmp_path: Path) -> None:
    check_report({"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}, tmp_path)


def test_auto_is_float32_without_a_gpu_and_bf16_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_dtype("auto", {}) is torch.float32
    assert choose_device("auto") == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_dtype("auto", {}) is torch.bfloat16
    assert choose_device("auto") == {"device_map": "auto"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == {"device_map": "cuda:1"}
    assert choose_device("balanced") == {"device_map": "balanced"}


@pytest.mark.parametrize(("name", "why"), [("cuda:2", "torch sees 2 GPUs"), ("gpu", "there is no such device")])
def test_a_device_that_is_not_there_is_refused(name: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match=why):
        choose_device(name)


def test_flash_attention_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: False)
    assert choose_attention("auto") == {} and choose_attention("eager") == {"attn_implementation": "eager"}
    with pytest.raises(UsageError, match="package flash-attn"):
        choose_attention("flash_attention_2")


def test_a_quantized_model_is_not_written(tmp_path: Path) -> None:
    model = SimpleNamespace(hf_quantizer=object())
    with pytest.raises(UsageError, match="quantized"):
        save_release(SimpleNamespace(), model, tmp_path)  # type: ignore[arg-type]


class Layer(torch.nn.Module):
    def __init__(self, width: int, inputs: int = 64) -> None:
        super().__init__()
        self.in_features, self.out_features, self.support_avx512bf16_for_cpu = inputs, width, True


def test_four_bit_layers_of_odd_sizes_stay_unpacked_and_all_do_for_training() -> None:
    model = torch.nn.Sequential(Layer(64), Layer(16), Layer(64, inputs=32))
    keep_unpacked(model)  # type: ignore[arg-type]
    assert [layer.support_avx512bf16_for_cpu for layer in model] == [True, False, False]
    keep_unpacked(model, every=True)  # type: ignore[arg-type]
    assert not any(layer.support_avx512bf16_for_cpu for layer in model)
