from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint, open_checkpoint, read_json
from vlcore.weights import save_release
from vlcore_internvl.weights import JoinGroups, SplitGroups

Make = Callable[..., Checkpoint]
CPU = LoadConfig(dtype="fp32", device_map="cpu")
CONFIG = SimpleNamespace(text_config=SimpleNamespace(num_key_value_heads=2, num_attention_heads=4))


def read_all(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_groups_split_into_queries_keys_and_values() -> None:
    names = ["q0", "q1", "k0", "v0", "q2", "q3", "k1", "v1"]
    fused = torch.arange(8.0).repeat_interleave(3)[:, None].expand(24, 5)
    split = SplitGroups().convert({"wqkv": [fused]}, ["wqkv"], ["q", "k", "v"], config=CONFIG)
    found = {part: [names[int(i)] for i in rows[::3, 0]] for part, rows in split.items()}
    assert found == {"q": ["q0", "q1", "q2", "q3"], "k": ["k0", "k1"], "v": ["v0", "v1"]}


@pytest.mark.parametrize("shape", [(24, 5), (24,)])
def test_joining_groups_reverses_splitting_them(shape: tuple[int, ...]) -> None:
    fused = torch.randn(shape)
    split = SplitGroups().convert({"wqkv": fused}, ["wqkv"], ["q", "k", "v"], config=CONFIG)
    joined = JoinGroups().convert(split, ["q", "k", "v"], ["wqkv"], config=CONFIG)
    assert torch.equal(joined["wqkv"], fused)
    assert isinstance(SplitGroups().reverse_op, JoinGroups)
    assert isinstance(JoinGroups().reverse_op, SplitGroups)


@pytest.mark.parametrize(
    "name", ["internvl-chat-v1_5", "internvl2-4b", "internvl2-40b", "internvl2-llama3-76b", "internvl3_5-1b"]
)
def test_saving_gives_the_release_back_bit_for_bit(
    name: str, recorded: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    checkpoint = recorded(name)
    save_release(checkpoint, checkpoint.call("load_model", config=CPU), tmp_path)
    before, after = read_all(checkpoint.folder), read_all(tmp_path)
    assert before.keys() == after.keys()
    assert all(tensor.dtype == after[key].dtype for key, tensor in before.items())
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert {p.name for p in checkpoint.folder.iterdir()} == {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", ["internlm3", "qwen3_moe", "gpt_oss"])
def test_a_written_release_comes_back_bit_for_bit(kind: str, tiny: Make, tmp_path: Path) -> None:
    checkpoint = tiny(kind)
    save_release(checkpoint, checkpoint.call("load_model", config=CPU), tmp_path)
    before, after = read_all(checkpoint.folder), read_all(tmp_path)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())


def test_experts_are_tensors_of_their_own_in_the_release_and_one_in_the_model(tiny: Make) -> None:
    checkpoint = tiny("qwen3_moe")
    layer = checkpoint.call("load_model", config=CPU).model.language_model.layers[1].mlp
    saved = read_all(checkpoint.folder)
    parts = [[saved[f"language_model.model.layers.1.mlp.experts.{number}.{name}_proj.weight"] for number in range(12)]
             for name in ("gate", "up", "down")]
    gates, ups, downs = map(torch.stack, parts)
    assert torch.equal(layer.experts.gate_up_proj, torch.cat([gates, ups], dim=1))
    assert torch.equal(layer.experts.down_proj, downs)


def test_a_missing_expert_is_an_error(tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(tiny("qwen3_moe").folder, tmp_path / "broken")
    tensors = read_all(tmp_path / "broken")
    del tensors["language_model.model.layers.1.mlp.experts.3.down_proj.weight"]
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(CheckpointError, match="its weights cannot be loaded"):
        open_checkpoint(tmp_path / "broken").call("load_model", config=CPU)
    assert "model.language_model.layers.1.mlp.experts.down_proj" in caplog.text


def test_a_missing_tensor_is_an_error_that_names_it(tiny: Make, tmp_path: Path) -> None:
    shutil.copytree(tiny("internlm2").folder, tmp_path / "broken")
    tensors = read_all(tmp_path / "broken")
    del tensors["language_model.model.layers.1.attention.wqkv.weight"]
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"3 missing: .*layers\.1\.self_attn\.k_proj"):
        open_checkpoint(tmp_path / "broken").call("load_model", config=CPU)


def quantize(source: Path, target: Path) -> dict[str, torch.Tensor]:
    """Writes a release's folder as bitsandbytes saves it in 8 bit; returns what its ints stand for."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text(encoding="utf8"))
    config["quantization_config"] = {"load_in_8bit": True, "quant_method": "bitsandbytes"}
    (target / "config.json").write_text(json.dumps(config), encoding="utf8")
    saved, meant = {}, {}
    for name, tensor in read_all(source).items():
        meant[name] = saved[name] = tensor.half()
        if tensor.ndim == 2 and "tok_embeddings" not in name and not name.startswith("mlp1"):
            scales = tensor.abs().amax(dim=1)
            saved[name] = torch.round(tensor * 127 / scales[:, None]).to(torch.int8)
            saved[name.removesuffix("weight") + "SCB"] = scales
            saved[name.removesuffix("weight") + "weight_format"] = torch.tensor(0, dtype=torch.uint8)
            meant[name] = saved[name] * scales[:, None] / 127
    save_file(saved, target / "model.safetensors", metadata={"format": "pt"})
    return {name: tensor.float() for name, tensor in meant.items()}


def test_weights_saved_in_8_bit_keep_their_ints_and_scales(tiny: Make, tmp_path: Path) -> None:
    import bitsandbytes

    meant = quantize(tiny("internlm2").folder, tmp_path / "int8")
    model = open_checkpoint(tmp_path / "int8").call("load_model", config=CPU)
    layer = model.model.language_model.layers[0].self_attn
    parts = [getattr(layer, f"{name}_proj").weight for name in "qkv"]
    values = [part.data * part.SCB[:, None] / 127 for part in parts]
    joined = JoinGroups().convert(
        dict(zip("qkv", values, strict=True)), ["q", "k", "v"], ["wqkv"], config=model.config
    )
    torch.testing.assert_close(joined["wqkv"], meant["language_model.model.layers.0.attention.wqkv.weight"])
    assert isinstance(model.lm_head, bitsandbytes.nn.Linear8bitLt)
    assert isinstance(model.model.multi_modal_projector.linear_1, torch.nn.Linear)
    assert not isinstance(model.model.multi_modal_projector.linear_1, bitsandbytes.nn.Linear8bitLt)
    assert {p.dtype for p in model.parameters()} == {torch.float32, torch.int8}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_fused_weight_can_be_quantized_while_it_is_loaded(bits: int, tiny: Make) -> None:
    config = LoadConfig(dtype="fp32", device_map="cpu", quantization_bit=bits)
    model = tiny("internlm2").call("load_model", config=config)
    language = model.model.language_model.layers[0].self_attn.k_proj
    vision = model.model.vision_tower.encoder.layer[0].attention.v_proj
    assert all(type(layer).__name__.startswith(f"Linear{bits}bit") for layer in (language, vision))


@pytest.mark.parametrize("stored", [True, False])
def test_a_tied_head_is_saved_as_its_release_has_it(tiny: Make, tmp_path: Path, stored: bool) -> None:
    folder = Path(shutil.copytree(tiny("qwen3").folder, tmp_path / "release"))
    config = read_json(folder / "config.json")
    config["llm_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config), encoding="utf8")
    tensors = load_file(folder / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    if not stored:
        del tensors["language_model.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    (tmp_path / "saved").mkdir()
    save_release(checkpoint, checkpoint.call("load_model", config=LoadConfig(dtype="fp32")), tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    assert all(torch.equal(saved[name], tensors[name]) for name in tensors)
