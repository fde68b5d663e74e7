from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore.weights import save_release
from vlcore_deepseek_vl.weights import AddFirst, DropFirst, list_names

Tiny = Callable[..., Checkpoint]
CPU = LoadConfig(dtype="fp32", device_map="cpu")


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def check_equal(before: Path, after: Path) -> None:
    old, new = read_all(before), read_all(after)
    assert old.keys() == new.keys()
    assert all(old[name].dtype == new[name].dtype and torch.equal(old[name], new[name]) for name in old)
    assert {path.name for path in before.iterdir()} == {path.name for path in after.iterdir()}


@pytest.mark.parametrize("hybrid", [False, True])
def test_saving_gives_a_tiny_release_back_bit_for_bit(hybrid: bool, tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = tiny(hybrid)
    save_release(checkpoint, checkpoint.call("load_model", config=CPU), tmp_path)
    check_equal(checkpoint.folder, tmp_path)


def test_saving_gives_a_recorded_release_back_bit_for_bit(recorded: Checkpoint, tmp_path: Path) -> None:
    save_release(recorded, recorded.call("load_model", config=CPU), tmp_path)
    check_equal(recorded.folder, tmp_path)


@pytest.mark.parametrize("hybrid", [False, True])
def test_no_name_of_the_table_begins_with_another(hybrid: bool) -> None:
    for side in zip(*list_names(hybrid), strict=True):
        assert not [(a, b) for a in side for b in side if a != b and b.startswith(a)]


def test_position_embeddings_lose_and_regain_their_first_axis() -> None:
    stored = torch.randn(1, 4, 3)
    native = DropFirst().convert({"a": [stored]}, ["a"], ["b"])
    assert native["b"].shape == (4, 3)
    assert torch.equal(AddFirst().convert(native, ["b"], ["a"])["a"], stored)
    assert isinstance(DropFirst().reverse_op, AddFirst) and isinstance(AddFirst().reverse_op, DropFirst)


@pytest.mark.parametrize(
    ("lost", "named"),
    [("aligner.layers.2.bias", "aligner.layers.2.bias"), ("language_model.lm_head.weight", "lm_head.weight")],
)
def test_a_missing_tensor_is_an_error_that_names_it(lost: str, named: str, tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny().folder, tmp_path / "broken")
    tensors = read_all(tmp_path / "broken")
    del tensors[lost]
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 missing: .*{named}"):
        open_checkpoint(tmp_path / "broken").call("load_model", config=CPU)


def test_a_left_over_tensor_is_an_error_that_names_it(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny().folder, tmp_path / "more")
    tensors = read_all(tmp_path / "more") | {"aligner.layers.4.weight": torch.zeros(1)}
    save_file(tensors, tmp_path / "more" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 left over: .*aligner\.layers\.4\.weight"):
        open_checkpoint(tmp_path / "more").call("load_model", config=CPU)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("hybrid", [False, True])
def test_fused_weights_can_be_quantized_while_they_are_loaded(hybrid: bool, bits: int, tiny: Tiny) -> None:
    config = LoadConfig(dtype="fp32", device_map="cpu", quantization_bit=bits)
    model = tiny(hybrid).call("load_model", config=config)
    parts = (model.model.language_model.layers[0], model.model.vision_model.encoder.layers[0])
    layers = [part.self_attn.q_proj for part in parts]
    assert all(type(layer).__name__.startswith(f"Linear{bits}bit") for layer in layers)
    edge = 64 if hybrid else 48
    with torch.no_grad():
        features = model.get_image_features(torch.rand(1, 3, edge, edge)).pooler_output
    assert features.shape == (1, 36, 64) and torch.isfinite(features).all()
