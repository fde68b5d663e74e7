from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint
from vlcore_internvl.release import (
    count_tile_tokens,
    first_tokens,
    load_tokenizer,
    native_config,
    read_biases,
    read_rope,
    read_special_tokens,
    ties_head,
)

Find = Callable[[str], Checkpoint]
SENTENCEPIECE = ["internvl-chat-v1_5", "internvl2-4b", "internvl2-40b"]
ALL = [*SENTENCEPIECE, "internvl2-llama3-76b", "internvl3_5-1b"]


def test_a_tile_of_448_pixels_takes_256_positions() -> None:
    vision = {"patch_size": 14, "image_size": 224}
    config = {"force_image_size": 448, "downsample_ratio": 0.5, "vision_config": vision}
    assert count_tile_tokens(config) == 256


def test_phi3s_su_is_longrope_with_the_ratio_of_its_lengths() -> None:
    llm = {
        "rope_theta": 1e4, "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]},
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
    }
    assert read_rope(llm)["rope_type"] == "longrope" and read_rope(llm)["factor"] == 32


def test_attention_implementation_and_cache_of_the_release_are_not_taken_over(recorded: Find) -> None:
    checkpoint = recorded("internvl-chat-v1_5")
    assert checkpoint.config["llm_config"]["attn_implementation"] == "flash_attention_2"
    native: Any = native_config(checkpoint)
    assert native.text_config._attn_implementation != "flash_attention_2" and native.text_config.use_cache


@pytest.mark.parametrize(
    ("architecture", "ties"),
    [("Qwen3ForCausalLM", True), ("Qwen3MoeForCausalLM", True), ("Qwen2ForCausalLM", False)],
)
def test_only_qwen3_may_tie_its_head(architecture: str, ties: bool) -> None:
    assert ties_head({"llm_config": {"architectures": [architecture], "tie_word_embeddings": True}}) is ties


def test_an_internlm3_with_biases_in_some_layers_is_refused() -> None:
    llm = {"architectures": ["InternLM3ForCausalLM"], "qkv_bias": True, "bias": True}
    assert read_biases({"llm_config": llm}) == {"attention_bias": True, "mlp_bias": True}
    with pytest.raises(CheckpointError, match="qkv_bias differs from bias"):
        read_biases({"llm_config": {**llm, "bias": False}})


def test_adapters_that_were_not_merged_are_refused(recorded: Find) -> None:
    checkpoint = recorded("internvl2-40b")
    with pytest.raises(CheckpointError, match="use_llm_lora is 128"):
        native_config(replace(checkpoint, config={**checkpoint.config, "use_llm_lora": 128}))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("internvl-chat-v1_5", ("<s>",)), ("internvl2-4b", ("<s>", "▁")), ("internvl2-40b", ()),
        ("internvl2-llama3-76b", ("<|begin_of_text|>",)), ("internvl3_5-1b", ()),
    ],
)
def test_each_tokenizer_begins_as_the_release(name: str, first: tuple[str, ...], recorded: Find) -> None:
    assert first_tokens(recorded(name).folder) == first


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "text", ["Hello", " two  spaces ", "你好 🙂", "a\nb\n\n", "1.5 <|im_end|> <img> [UNUSED_TOKEN_145] <s>"]
)
def test_plain_text_goes_there_and_back_without_a_special_token(name: str, text: str, recorded: Find) -> None:
    folder = recorded(name).folder
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode(text)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf8"))
    special = {int(i) for i, token in settings["added_tokens_decoder"].items() if token["special"]}
    assert not special & set(ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_text_that_spells_a_piece_under_a_special_token_is_spelt_out(name: str, recorded: Find) -> None:
    tokenizer = load_tokenizer(recorded(name).folder)
    token = "<|end|>" if name == "internvl2-4b" else "<|im_end|>"
    for text in (token, "<|im_start|>", "[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"):
        assert tokenizer.token_id(token) not in tokenizer.encode(text)
        assert len(tokenizer.encode(text)) > 1


def test_phi3s_roles_swallow_white_space_and_others_do_not(recorded: Find) -> None:
    phi, intern = (load_tokenizer(recorded(name).folder) for name in ("internvl2-4b", "internvl-chat-v1_5"))
    assert phi.strips_after("<|user|>") and not phi.strips_after("</img>")
    assert not intern.strips_after("<|im_start|>")


def test_decoding_leaves_out_special_tokens_and_sets_off_the_others(recorded: Find) -> None:
    tokenizer = load_tokenizer(recorded("internvl2-4b").folder)
    ids = [*tokenizer.encode("yes"), tokenizer.token_id("<box>"), tokenizer.token_id("<|end|>")]
    assert tokenizer.decode(ids) == "yes <|end|>"


def test_spaces_before_punctuation_go_where_the_release_takes_them_away(recorded: Find) -> None:
    text = "It 's here , and I do n't mind ."
    llama, qwen = (load_tokenizer(recorded(name).folder) for name in ("internvl2-llama3-76b", "internvl3_5-1b"))
    assert llama.decode(llama.encode(text)) == "It's here, and I don't mind."
    assert qwen.decode(qwen.encode(text)) == text


@pytest.mark.parametrize("name", ["internvl2-4b", "internvl3_5-1b"])
def test_special_tokens_may_be_named_in_the_tokenizers_settings_alone(
    name: str, tmp_path: Path, recorded: Find
) -> None:
    shutil.copytree(recorded(name).folder, tmp_path, dirs_exist_ok=True)
    named = read_special_tokens(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    assert read_special_tokens(tmp_path) == named


def test_a_layer_that_is_not_there_is_refused(recorded: Find) -> None:
    checkpoint = recorded("internvl2-40b")
    with pytest.raises(CheckpointError, match="select_layer is -4, and the vision tower has 2 layers"):
        native_config(replace(checkpoint, config={**checkpoint.config, "select_layer": -4}))


def test_a_token_that_is_not_there_is_named_with_near_ones(recorded: Find) -> None:
    with pytest.raises(CheckpointError, match="<IMG_CONTEXT>"):
        load_tokenizer(recorded("internvl2-4b").folder).token_id("<IMG_CONTEXTS>")


def test_a_folder_without_tokenizer_files_says_which_are_missing(tmp_path: Path, recorded: Find) -> None:
    shutil.copy(recorded("internvl2-4b").folder / "special_tokens_map.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)


def test_a_damaged_sentencepiece_file_is_named(tmp_path: Path, recorded: Find) -> None:
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(recorded("internvl2-4b").folder / name, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        load_tokenizer(tmp_path)
