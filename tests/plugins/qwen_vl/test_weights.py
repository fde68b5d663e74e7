from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.core_model_loading import revert_weight_conversion
from vlcore.config import LoadConfig
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore.shards import list_files, read_tensors
from vlcore.weights import save_release
from vlcore_qwen_vl.family import FAMILY
from vlcore_qwen_vl.modeling import QwenVLForConditionalGeneration
from vlcore_qwen_vl.release import native_config
from vlcore_qwen_vl.weights import FUSED, Share

GPTQ = {"bits": 4, "group_size": 128, "quant_method": "gptq"}


def load(checkpoint: Checkpoint) -> nn.Module:
    config = LoadConfig(model=str(checkpoint.folder), device_map="cpu", dtype="fp32")
    return checkpoint.call("load_model", config=config)


def read(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in list_files(folder) for name, tensor in read_tensors(path).items()}


@pytest.mark.parametrize("changes", [
    {}, {"no_bias": False}, {"visual": {"width": 128}}, {"width": 256, "visual": {"n_queries": 25}},
])
def test_a_release_is_loaded_and_saved_bit_for_bit(tiny, changes, tmp_path: Path) -> None:
    checkpoint = tiny(**changes)
    save_release(checkpoint, load(checkpoint), tmp_path)
    before, after = read(checkpoint.folder), read(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    others = [path.name for path in checkpoint.folder.iterdir() if path.suffix != ".bin"]
    assert all((tmp_path / name).read_bytes() == (checkpoint.folder / name).read_bytes() for name in others)


def test_the_recorded_release_is_saved_bit_for_bit(recorded: Checkpoint, tmp_path: Path) -> None:
    save_release(recorded, load(recorded), tmp_path)
    before, after = read(recorded.folder), read(tmp_path)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_each_part_lands_where_the_release_computes_with_it(tiny) -> None:
    checkpoint = tiny()
    model, tensors = load(checkpoint).model, read(checkpoint.folder)
    layer, head = model.language_model.layers[1], "transformer.h.1"
    fused = tensors[f"{head}.attn.c_attn.weight"]
    assert torch.equal(torch.cat([getattr(layer.self_attn, f"{part}_proj").weight for part in "qkv"]), fused)
    assert torch.equal(layer.mlp.gate_proj.weight, tensors[f"{head}.mlp.w2.weight"])
    assert torch.equal(layer.mlp.up_proj.weight, tensors[f"{head}.mlp.w1.weight"])
    assert torch.equal(model.resampler.proj.weight.T, tensors["transformer.visual.proj"])
    pool = tensors["transformer.visual.attn_pool.attn.in_proj_weight"]
    assert torch.equal(model.resampler.attn.k_proj.weight, pool.chunk(3)[1])


class Packed(nn.Module):
    """A layer as the library for GPTQ has it: four bits, groups of 128 inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        groups = inputs // 128
        self.register_buffer("qweight", torch.randint(0, 99, (inputs // 8, outputs), dtype=torch.int32))
        self.register_buffer("qzeros", torch.randint(0, 99, (groups, outputs // 8), dtype=torch.int32))
        self.register_buffer("scales", torch.rand(groups, outputs).half())
        self.register_buffer("g_idx", torch.arange(inputs, dtype=torch.int32) // 128)
        self.register_buffer("bias", torch.rand(outputs).half())


def test_int4_layers_have_the_names_and_shapes_of_the_int4_release(tiny) -> None:
    saved, head = name_tensors({**tiny().config, "quantization_config": GPTQ}), "transformer.h.0."
    shapes = {name.removeprefix(head): tuple(t.shape) for name, t in saved.items() if name.startswith(head)}
    outputs = {"attn.c_attn": 384, "attn.c_proj": 128, "mlp.w1": 256, "mlp.w2": 256, "mlp.c_proj": 128}
    expected: dict[str, tuple[int, ...]] = {"ln_1.weight": (128,), "ln_2.weight": (128,)}
    for name, out in outputs.items():
        inputs = 256 if name == "mlp.c_proj" else 128
        expected |= {f"{name}.qweight": (inputs // 8, out), f"{name}.qzeros": (inputs // 128, out // 8)}
        expected |= {f"{name}.scales": (inputs // 128, out), f"{name}.g_idx": (inputs,), f"{name}.bias": (out,)}
    assert shapes == expected


#: What `config.json` of Qwen-VL-Chat says.
REAL = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "kv_channels": 128,
    "intermediate_size": 22016, "vocab_size": 151936, "layer_norm_epsilon": 1e-6, "seq_length": 2048,
    "visual": {"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231,
               "output_dim": 4096, "patch_size": 14, "width": 1664},
}


def name_tensors(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a release by their names, without their data."""
    with torch.device("meta"):
        model = QwenVLForConditionalGeneration(native_config(Checkpoint(Path(), config, FAMILY, None, "")))
        if "quantization_config" in config:
            for layer in model.model.language_model.layers:
                for name, module in [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear)]:
                    layer.set_submodule(name, Packed(module.in_features, module.out_features))
    return revert_weight_conversion(model, model.state_dict())


def test_the_real_release_has_the_number_and_size_of_tensors_that_its_index_lists() -> None:
    tensors = name_tensors(REAL)
    vision = sum(tensor.numel() for name, tensor in tensors.items() if ".visual." in name)
    assert len(tensors) == 853 and vision == 1_935_610_624
    assert 2 * sum(tensor.numel() for tensor in tensors.values()) == 19_313_870_336


def test_the_real_int4_release_has_the_number_of_tensors_that_its_index_lists() -> None:
    assert len(name_tensors(REAL | {"quantization_config": GPTQ})) == 1461


@pytest.mark.parametrize("kind", FUSED)
def test_fused_tensors_are_divided_and_joined_alike(kind: str) -> None:
    whole = torch.arange(24).reshape(6, 4) if kind in ("weight", "bias") else torch.arange(24).reshape(2, 12)
    operation, parts = FUSED[kind], ["q", "k", "v"]
    divided = operation.convert({"fused": whole}, ["fused"], parts)
    assert list(divided) == parts
    joined = operation.reverse_op.convert(divided, parts, ["fused"])
    assert torch.equal(joined["fused"], whole)
    assert isinstance(operation.reverse_op.reverse_op, type(operation))


def test_layers_that_share_a_tensor_get_one_each() -> None:
    shared = Share().convert({"fused": torch.zeros(2)}, ["fused"], ["q", "k"])
    shared["q"] += 1
    assert shared["k"].tolist() == [0, 0]


def test_a_missing_tensor_is_refused_by_name(tiny, tmp_path: Path) -> None:
    from vlcore.errors import CheckpointError
    from vlcore.shards import write_tensors

    for path in tiny().folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = read(tmp_path)
    del tensors["transformer.visual.attn_pool.pos_embed"]
    write_tensors(tmp_path / "pytorch_model.bin", tensors)
    with pytest.raises(CheckpointError, match=r"1 missing: model\.resampler\.pos_embed"):
        load(open_checkpoint(tmp_path))
