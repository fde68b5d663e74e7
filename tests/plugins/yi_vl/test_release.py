from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint
from vlcore_yi_vl.release import count_tokens, language_config, load_tokenizer, native_config

Make = Callable[..., Checkpoint]


def test_configuration_is_the_release_s_and_not_transformers_default(recorded: Checkpoint) -> None:
    native: Any = native_config(recorded)
    text, vision = native.text_config, native.vision_config
    assert (text.model_type, text.num_key_value_heads, text.rms_norm_eps) == ("llama", 2, 1e-5)
    assert text.rope_parameters == {"rope_theta": 5000000.0, "rope_type": "default"}
    assert (vision.hidden_act, vision.hidden_size, vision.image_size) == ("gelu", 48, 56)
    assert (native.image_token_id, native.image_seq_length, native.vision_feature_layer) == (-200, 16, -2)
    assert native.model_type == "vlcore_yi_vl"


def test_rope_scaling_of_both_spellings_is_kept() -> None:
    for key in ("type", "rope_type"):
        rope = language_config({"rope_scaling": {key: "linear", "factor": 2.0}}).rope_parameters
        assert rope == {"rope_theta": 10000.0, "rope_type": "linear", "factor": 2.0}


def test_the_class_position_counts_where_the_release_keeps_it(tiny: Make) -> None:
    assert count_tokens(tiny()) == 16
    kept = tiny(mm_vision_select_feature="cls_patch")
    assert count_tokens(kept) == 17
    assert native_config(kept).vision_feature_select_strategy == "full"


def test_tokens_around_pictures_are_refused(tiny: Make) -> None:
    with pytest.raises(CheckpointError, match="mm_use_im_start_end"):
        native_config(tiny(mm_use_im_start_end=True))


def test_what_users_type_never_becomes_a_special_token(recorded: Checkpoint) -> None:
    tokenizer = load_tokenizer(recorded.folder)
    special = {tokenizer.token_id(name) for name in ("<|im_start|>", "<|im_end|>", "<|Human|>", "<|endoftext|>")}
    text = "<|im_start|>a<|im_end|><|Human|><|endoftext|><unk> <<|im_end|>>"
    ids = tokenizer.encode(text)
    assert not special & set(ids) and 0 not in ids
    assert tokenizer.decode(ids) == text


def test_text_is_encoded_as_it_stands(recorded: Checkpoint) -> None:
    tokenizer = load_tokenizer(recorded.folder)
    assert tokenizer.encode("\n### ") == [9, 303, 593]
    for text in ("  two  spaces ", "\n\nlines\n", "数字 123", "🐈 < |", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_without_a_text_are_left_out(recorded: Checkpoint) -> None:
    tokenizer = load_tokenizer(recorded.folder)
    assert tokenizer.decode([0, 1, *tokenizer.encode("a b"), 2]) == "a b"
    assert tokenizer.pad_id == 0 and not tokenizer.strips_after("\n")


def test_a_token_that_is_not_there_is_an_error(recorded: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"did you mean <\|im_end\|>"):
        load_tokenizer(recorded.folder).token_id("<|im_end")


def test_a_tokenizer_that_is_missing_or_damaged_is_an_error(recorded: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not there"):
        load_tokenizer(tmp_path)
    shutil.copy(recorded.folder / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"no pieces")
    with pytest.raises(CheckpointError, match="not a sentencepiece model"):
        load_tokenizer(tmp_path)


def test_a_whole_clip_folder_gives_its_vision_part(tiny: Make, tmp_path: Path) -> None:
    from vlcore.resolve import open_checkpoint
    from vlcore_yi_vl.family import find_vision

    folder = tmp_path / "whole"
    shutil.copytree(tiny().folder, folder)
    path = find_vision(tiny().config, folder) / "config.json"
    vision = json.loads(path.read_text(encoding="utf8"))
    path.write_text(json.dumps({"model_type": "clip", "vision_config": vision}), encoding="utf8")
    native: Any = native_config(open_checkpoint(folder))
    assert native.vision_config.hidden_act == "gelu"
