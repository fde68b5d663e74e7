from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, ExtraMissing, UsageError
from vlcore_qwen_vl import release

GPTQ = {"bits": 4, "group_size": 128, "quant_method": "gptq"}


def test_the_language_model_is_half_as_wide_inside_as_the_release_says(tiny) -> None:
    native = release.native_config(tiny())
    assert native.text_config.intermediate_size * 2 == tiny().config["intermediate_size"]
    assert native.text_config.num_key_value_heads == native.text_config.num_attention_heads


def test_epsilon_base_and_trained_length_come_from_the_release(tiny) -> None:
    text = release.native_config(tiny(layer_norm_epsilon=1e-5, rotary_emb_base=5000, seq_length=99)).text_config
    assert (text.rms_norm_eps, text.rope_parameters["rope_theta"], text.seq_length) == (1e-5, 5000.0, 99)


def test_the_id_of_image_positions_is_the_tokenizers(tiny) -> None:
    checkpoint = tiny()
    padding = release.load_tokenizer(checkpoint.folder).token_id("<imgpad>")
    assert release.native_config(checkpoint).image_token_id == padding


def test_a_picture_takes_256_positions_unless_the_release_says_otherwise(tiny) -> None:
    assert release.count_queries({"visual": {}}) == 256
    assert release.native_config(tiny()).vision_config.n_queries == 16


def test_heads_that_do_not_add_up_are_refused(tiny) -> None:
    checkpoint = tiny()
    with pytest.raises(CheckpointError, match="kv_channels"):
        release.native_config(replace(checkpoint, config={**checkpoint.config, "kv_channels": 7}))


@pytest.mark.parametrize("kind, ends", [("chat", 3), ("base", 1)])
def test_the_answers_ends_are_those_of_the_chat_format(tiny, kind: str, ends: int) -> None:
    checkpoint = tiny(kind)
    tokenizer = release.load_tokenizer(checkpoint.folder)
    named = [tokenizer.token_id(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    assert sum(tokenizer.decode([number]) == "" for number in named) == ends


def test_a_folder_without_generation_config_chats_with_the_releases_window(tmp_path: Path) -> None:
    assert release.is_chat(tmp_path) and release.read_window(tmp_path) == 6144
    (tmp_path / "generation_config.json").write_text(json.dumps({"chat_format": "raw", "max_window_size": 99}))
    assert not release.is_chat(tmp_path) and release.read_window(tmp_path) == 99


def test_a_folder_without_its_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"qwen\.tiktoken"):
        release.load_tokenizer(tmp_path)


def test_a_changed_vocabulary_is_read_again(tmp_path: Path, tiny) -> None:
    import os

    path = tmp_path / "qwen.tiktoken"
    path.write_bytes((tiny().folder / "qwen.tiktoken").read_bytes())
    before = release.load_tokenizer(tmp_path).pad_id
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    os.utime(path, ns=(1, 1))
    assert release.load_tokenizer(tmp_path).pad_id == before - 1


def test_int4_names_what_to_install(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = replace(tiny(), config={**tiny().config, "quantization_config": GPTQ})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"optimum and gptqmodel.*pip install 'vlcore-qwen-vl\[int4\]'"):
        checkpoint.call("load_model", config=LoadConfig(model=str(checkpoint.folder)))


def test_int4_is_not_quantized_again(tiny) -> None:
    checkpoint = replace(tiny(), config={**tiny().config, "quantization_config": GPTQ})
    with pytest.raises(UsageError, match="quantized already"):
        release.check_quantization(checkpoint, LoadConfig(model=str(checkpoint.folder), quantization_bit=4))


def test_int4_tells_the_library_where_the_quantized_layers_are(tiny) -> None:
    native = release.native_config(replace(tiny(), config={**tiny().config, "quantization_config": GPTQ}))
    assert native.quantization_config["block_name_to_quantize"] == "model.language_model.layers"
    assert native.text_config.linear_bias
