from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint
from vlcore_deepseek_vl.family import FAMILY
from vlcore_deepseek_vl.release import load_tokenizer, native_config, read_special_tokens
from vlcore_deepseek_vl.towers import count_layers, sam_config, siglip_config

Tiny = Callable[..., Checkpoint]
SIGLIP = {"model_name": "siglip_large_patch16_384", "image_size": 384, "select_layer": -1}
SAM = {"model_name": "sam_b_downsample", "image_size": 1024, "output_dim": 1024}
#: `config.json` of the releases, as far as it decides about the model.
SINGLE: dict[str, Any] = {
    "vision_config": {"cls": "CLIPVisionTower", "params": SIGLIP},
    "aligner_config": {"params": {"projector_type": "mlp_gelu", "depth": 2, "input_dim": 1024, "n_embed": 2048}},
    "language_config": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_hidden_layers": 24,
        "vocab_size": 102400, "max_position_embeddings": 16384,
    },
}
HYBRID: dict[str, Any] = {
    "vision_config": {"cls": "HybridVisionTower", "params": {"high_res_cfg": SAM, "low_res_cfg": SIGLIP}},
    "aligner_config": {
        "params": {"projector_type": "low_high_hybrid_split_mlp_gelu", "depth": 2, "input_dim": 1024, "n_embed": 4096}
    },
    "language_config": {"num_hidden_layers": 30, "vocab_size": 102400, "max_position_embeddings": 16384},
}


@pytest.mark.parametrize(("config", "billions", "tensors"), [(SINGLE, 1.975, 529), (HYBRID, 7.344, 775)])
def test_a_model_of_the_releases_size_has_its_parameters(
    config: dict[str, Any], billions: float, tensors: int, tiny: Tiny
) -> None:
    import torch
    from vlcore_deepseek_vl.modeling import choose_class

    native = native_config(Checkpoint(tiny().folder, config, FAMILY, None, FAMILY.name))
    with torch.device("meta"):
        model = choose_class(config)(native)
    pool = 4 * 1024 * 1024 + 2 * 4096 * 1024 + 4 * 1024 + 4096 + 4 * 1024  # SigLIP's unread head
    unread = pool + (0 if config is SINGLE else 4 * 1024)
    assert round((sum(p.numel() for p in model.parameters()) + unread) / 1e9, 3) == billions
    # Query, key and value are one tensor in the release.
    fused = len(model.state_dict()) - 2 * 2 * 24
    assert fused + (13 if config is SINGLE else 17) == tensors


def test_what_a_language_config_leaves_out_is_llamas_default(tiny: Tiny) -> None:
    text = native_config(Checkpoint(tiny().folder, HYBRID, FAMILY, None, FAMILY.name)).text_config
    assert (text.hidden_size, text.intermediate_size, text.num_attention_heads) == (4096, 11008, 32)
    assert text.num_key_value_heads == 32 and text.rms_norm_eps == 1e-6
    assert text.rope_parameters["rope_theta"] == 10000.0 and not text.attention_bias


def test_token_ids_come_from_the_tokenizer_and_the_head_is_not_tied(tiny: Tiny) -> None:
    config, tokenizer = native_config(tiny()), load_tokenizer(tiny().folder)
    names = read_special_tokens(tiny().folder)
    assert config.image_token_id == tokenizer.token_id(names.image)
    assert config.text_config.eos_token_id == tokenizer.token_id(names.eos)
    assert config.text_config.bos_token_id == tokenizer.token_id(names.bos)
    assert config.tie_word_embeddings is False


def test_rope_scaling_and_grouped_heads_are_taken_over(tiny: Tiny) -> None:
    language = {"num_key_value_heads": 2, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    text = native_config(tiny(change=lambda config: config["language_config"].update(language))).text_config
    assert text.num_key_value_heads == 2
    assert text.rope_parameters == {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}


def test_towers_are_found_by_name_or_bring_their_preset() -> None:
    known = siglip_config({"model_name": "siglip_so400m_patch14_384", "image_size": 384, "select_layer": -2})
    assert (known["hidden_size"], known["intermediate_size"], known["num_hidden_layers"]) == (1152, 4304, 26)
    assert known["hidden_act"] == "gelu" and known["vision_use_head"] is False
    assert sam_config(SAM)["global_attn_indexes"] == [2, 5, 8, 11]
    with pytest.raises(CheckpointError, match=r"vision tower eva_clip: .*known are siglip_large_patch16_384"):
        siglip_config({"model_name": "eva_clip"})


def test_a_name_in_the_table_wins_over_a_preset() -> None:
    preset = {"patch_size": 8, "width": 48, "layers": 3, "heads": 3, "mlp_ratio": 4}
    assert siglip_config({**SIGLIP, "preset": preset})["hidden_size"] == 1024
    assert siglip_config({**SIGLIP, "model_name": "siglip_new", "preset": preset})["hidden_size"] == 48


@pytest.mark.parametrize(("select", "layers"), [(-1, 24), (-2, 23), (0, 24), (3, 3), (30, 24)])
def test_select_layer_leaves_upper_layers_out(select: int, layers: int) -> None:
    assert count_layers(24, select) == layers


def test_a_tower_takes_its_class_defaults_where_it_says_nothing() -> None:
    default = siglip_config({})
    assert (default["image_size"], default["num_hidden_layers"]) == (336, 23)


def test_an_unknown_class_of_tower_is_an_error(tiny: Tiny) -> None:
    checkpoint = tiny()
    config = {**checkpoint.config, "vision_config": {"cls": "OtherTower", "params": {}}}
    with pytest.raises(CheckpointError, match="OtherTower"):
        native_config(Checkpoint(checkpoint.folder, config, FAMILY, None, FAMILY.name))


def test_the_image_token_is_added_where_the_tokenizer_lacks_it(recorded: Checkpoint) -> None:
    vocabulary = json.loads((recorded.folder / "tokenizer.json").read_text(encoding="utf8"))["added_tokens"]
    assert "<image_placeholder>" not in {token["content"] for token in vocabulary}
    assert load_tokenizer(recorded.folder).token_id("<image_placeholder>") == 1015


@pytest.mark.parametrize("hybrid", [False, True])
def test_blanks_and_line_breaks_survive(hybrid: bool, tiny: Tiny) -> None:
    tokenizer = load_tokenizer(tiny(hybrid).folder)
    text = "  a\n\n b\tc  \n"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_typed_names_of_special_tokens_stay_text(tiny: Tiny) -> None:
    tokenizer, names = load_tokenizer(tiny().folder), read_special_tokens(tiny().folder)
    special = {tokenizer.token_id(name) for name in (names.bos, names.eos, names.image)}
    assert not special & set(tokenizer.encode(f"{names.bos}a{names.eos}{names.image}"))


def test_single_characters_of_the_vocabulary_are_one_token(recorded: Checkpoint) -> None:
    assert load_tokenizer(recorded.folder).encode("øü") == [1002, 1014]


def test_ids_behind_the_vocabulary_decode_to_nothing(recorded: Checkpoint) -> None:
    tokenizer = load_tokenizer(recorded.folder)
    assert tokenizer.decode([*tokenizer.encode("a"), 1016, 1023]) == "a"


def test_a_folder_without_a_tokenizer_is_an_error(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copyfile(tiny().folder / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"it has no tokenizer\.json"):
        load_tokenizer(tmp_path)
