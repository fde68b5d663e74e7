from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from vlcore.config import LoadConfig
from vlcore.resolve import Checkpoint
from vlcore_internvl.rope import OwnLengthRotary

Find = Callable[[str], Checkpoint]
Make = Callable[..., Checkpoint]
#: Recorded checkpoints whose rope changes within 192 (dynamic) and 160 (longrope) positions.
LONG = ["internvl2-8b", "internvl2-4b"]


def load(checkpoint: Checkpoint, dtype: str = "fp32") -> Any:
    return checkpoint.call("load_model", config=LoadConfig(dtype=dtype, device_map="cpu"))  # type: ignore[arg-type]


def make_ids(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 800, (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LONG)
def test_an_answer_does_not_depend_on_earlier_and_longer_requests(name: str, recorded: Find) -> None:
    model, short, long = load(recorded(name)), make_ids(200), make_ids(300, seed=1)
    with torch.no_grad():
        before = model(input_ids=short).logits
        model(input_ids=long)
        assert torch.equal(model(input_ids=short).logits, before)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("length", [50, 220])
def test_an_answer_does_not_depend_on_its_neighbours(name: str, length: int, recorded: Find) -> None:
    model, short, long = load(recorded(name)), make_ids(length), make_ids(300, seed=1)
    padding = torch.zeros(1, 300 - length, dtype=torch.long)
    mask = torch.cat([torch.cat([padding, torch.ones_like(short)], dim=1), torch.ones_like(long)])
    rows = torch.cat([torch.cat([padding, short], dim=1), long])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = model(input_ids=short).logits
        batch = model(input_ids=rows, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(batch[:1, -length:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("length", [20, 250])
def test_frequencies_are_those_of_a_fresh_native_module(name: str, length: int, recorded: Find) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
    from vlcore_internvl.release import native_config

    config: Any = native_config(recorded(name)).text_config
    native: Any = (LlamaRotaryEmbedding if name == "internvl2-8b" else Phi3RotaryEmbedding)(config)
    positions, states = torch.arange(length)[None], torch.zeros(1)
    found, expected = OwnLengthRotary(config)(states, positions), native(states, positions)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def shorten(checkpoint: Checkpoint, **llm: Any) -> Checkpoint:
    """The checkpoint with other settings of its language model."""
    return replace(checkpoint, config={**checkpoint.config, "llm_config": {**checkpoint.config["llm_config"], **llm}})


def build_reference(checkpoint: Checkpoint) -> Any:
    """transformers' own language model with the release's weights, put together by hand."""
    from transformers import AutoConfig, AutoModelForCausalLM

    saved = load_file(checkpoint.folder / "model.safetensors")
    state = {name.removeprefix("language_model."): saved[name] for name in saved if name.startswith("language_model.")}
    llm = {key: value for key, value in checkpoint.config["llm_config"].items() if key != "architectures"}
    config = AutoConfig.for_model(**llm)
    for layer in range(config.num_hidden_layers if "qwen3_moe" in llm.values() else 0):
        place = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([state.pop(f"{place}.{number}.{name}_proj.weight") for number in range(config.num_experts)])
            for name in ("gate", "up", "down")
        )
        state |= {f"{place}.gate_up_proj": torch.cat([gate, up], dim=1), f"{place}.down_proj": down}
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("kind", ["internlm3", "qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("length", [40, 300])
def test_scores_are_those_of_transformers_own_language_model(kind: str, length: int, tiny: Make) -> None:
    # 300 positions are beyond InternLM3's shortened length and beyond gpt-oss' window.
    checkpoint = shorten(tiny(kind), **({"max_position_embeddings": 96} if kind == "internlm3" else {}))
    model, reference, ids = load(checkpoint), build_reference(checkpoint), make_ids(length)
    ids[ids >= model.config.text_config.vocab_size - 9] = 5
    ids[0, 10:14] = model.config.image_token_id
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(ids)
        embeddings[0, 10:14] = model.get_image_features(pixels).pooler_output
        found = model(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(found, reference(inputs_embeds=embeddings).logits, atol=1e-5, rtol=1e-5)


def test_a_token_is_computed_by_its_likeliest_experts(tiny: Make) -> None:
    checkpoint = tiny("qwen3_moe")
    saved = load_file(checkpoint.folder / "model.safetensors")
    block = load(checkpoint).model.language_model.layers[1].mlp
    place = "language_model.model.layers.1.mlp"
    token = torch.randn(64, generator=torch.Generator().manual_seed(0))
    weights, chosen = (saved[f"{place}.gate.weight"] @ token).softmax(-1).topk(2)
    expected = torch.zeros(64)
    for weight, number in zip((weights / weights.sum()).tolist(), chosen.tolist(), strict=True):
        gate, up, down = (saved[f"{place}.experts.{number}.{name}_proj.weight"] for name in ("gate", "up", "down"))
        expected += weight * (down @ (torch.nn.functional.silu(gate @ token) * (up @ token)))
    with torch.no_grad():
        torch.testing.assert_close(block(token[None, None])[0, 0], expected)


def test_pixel_shuffle_v1_swaps_rows_and_columns_of_v2(tiny: Callable[..., Checkpoint]) -> None:
    second, first = load(tiny()), load(tiny(ps_version="v1"))
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        v2, v1 = (model.get_image_features(pixels).pooler_output for model in (second, first))
    assert torch.equal(v1, v2[:, [0, 2, 1, 3]])


def test_positions_are_resized_in_float32_whatever_the_dtype(tiny: Callable[..., Checkpoint]) -> None:
    checkpoint = tiny()
    half, full = load(checkpoint, "bf16"), load(checkpoint)
    both = [model.model.vision_tower.embeddings for model in (half, full)]
    both[1].position_embeddings.data = both[0].position_embeddings.data.float()
    positions = [embeddings.interpolate_pos_encoding(torch.empty(0), 112, 112) for embeddings in both]
    assert positions[0].dtype == torch.bfloat16 and positions[0].shape == (1, 65, 32)
    assert torch.equal(positions[0], positions[1].bfloat16())


def test_adapters_of_a_mixture_stay_out_of_its_experts(tiny: Make, caplog: pytest.LogCaptureFixture) -> None:
    from vlcore.config import LoraConfig
    from vlcore.lora import add_adapters

    checkpoint = tiny("qwen3_moe")
    for choice, told in (("DEFAULT", False), ("ALL", True)):
        caplog.clear()
        with caplog.at_level("INFO"):
            adapted = add_adapters(checkpoint, load(checkpoint), LoraConfig(lora_target_modules=(choice,)))
        names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert names and not any(".experts." in name or ".mlp.gate." in name for name in names)
        assert ("no adapters go into the experts of 2 layers" in caplog.text) is told


def test_only_rope_that_changes_with_the_length_is_replaced(recorded: Find) -> None:
    models = [load(recorded(name)).model.language_model for name in (*LONG, "internvl2-40b")]
    assert [isinstance(model.rotary_emb, OwnLengthRotary) for model in models] == [True, True, False]


def test_parts_cover_every_parameter_and_default_targets_are_in_the_language_model(recorded: Find) -> None:
    checkpoint = recorded("internvl2-4b")
    model = load(checkpoint)
    assert all(checkpoint.parts.part_of(name) for name, _ in model.named_parameters())
    targets = checkpoint.call("lora_targets", model=model, choice="DEFAULT")
    assert {name.split(".")[-1] for name in targets} == {"qkv_proj", "o_proj"}
    assert all(name.startswith("model.language_model.") for name in targets)
