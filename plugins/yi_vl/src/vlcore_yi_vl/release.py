"""The release's configuration and tokenizer files, read into native ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint, read_json

from vlcore_yi_vl.family import find_vision
from vlcore_yi_vl.pieces import PieceTokenizer

if TYPE_CHECKING:
    from transformers import LlamaConfig

    from vlcore_yi_vl.modeling import YiVLConfig

#: Keys of `config.json` that mean the same in transformers' Llama.
LANGUAGE_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "max_position_embeddings", "attention_bias",
    "attention_dropout", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id",
)
#: Keys of the vision folder's `config.json` that mean the same in transformers' CLIP.
VISION_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size",
    "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout", "projection_dim", "initializer_range",
    "initializer_factor",
)
#: The id at image positions, as the release has it: no token of the vocabulary.
IMAGE_ID = -200


def native_config(checkpoint: Checkpoint) -> YiVLConfig:
    """The configuration of the native model.

    Raises:
        CheckpointError: when the vision tower's folder or its configuration is missing, or the model wants
            tokens around its pictures, which no release does.
    """
    from vlcore_yi_vl.modeling import YiVLConfig

    config = checkpoint.config
    if config.get("mm_use_im_start_end") or config.get("mm_use_im_patch_token"):
        why = "mm_use_im_start_end or mm_use_im_patch_token is set, and the releases have neither"
        raise CheckpointError(f"checkpoint {checkpoint.folder}", why, "take a model that was trained without them")
    return YiVLConfig(
        text_config=language_config(config),
        vision_config=vision_config(read_vision(checkpoint)),
        image_token_index=IMAGE_ID,
        image_seq_length=count_tokens(checkpoint),
        vision_feature_layer=config.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="full" if keeps_class(config) else "default",
        projector_type=config["mm_projector_type"],
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def language_config(config: Mapping[str, Any]) -> LlamaConfig:
    """The language model's configuration; `rope_theta` and `rope_scaling` become `rope_parameters`."""
    from transformers import LlamaConfig

    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("rope_type", None) or scaling.pop("type", None) or "default"
    rope = {"rope_theta": config.get("rope_theta", 10000.0), "rope_type": kind, **scaling}
    own = {key: config[key] for key in LANGUAGE_KEYS if key in config}
    tied = bool(config.get("tie_word_embeddings", False))
    return LlamaConfig(**own, rope_parameters=rope, tie_word_embeddings=tied)


def vision_config(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The vision tower's configuration. A full CLIP folder keeps it under `vision_config`."""
    found = vision.get("vision_config") or vision
    return {"model_type": "clip_vision_model", **{key: found[key] for key in VISION_KEYS if key in found}}


def read_vision(checkpoint: Checkpoint) -> dict[str, Any]:
    """`config.json` of the vision tower."""
    return read_json(find_vision(checkpoint.config, checkpoint.folder) / "config.json")


def keeps_class(config: Mapping[str, Any]) -> bool:
    """Whether the class position in front of the patches is an image position, too."""
    return bool(config.get("mm_vision_select_feature") == "cls_patch")


def count_tokens(checkpoint: Checkpoint) -> int:
    """Positions one picture takes: 1024 for 448 pixels and patches of 14."""
    vision = vision_config(read_vision(checkpoint))
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return int(patches) + keeps_class(checkpoint.config)


def load_tokenizer(folder: Path) -> PieceTokenizer:
    """The tokenizer from the release's files.

    Raises:
        CheckpointError: when `tokenizer.model` is missing or damaged.
    """
    return PieceTokenizer.read(folder)
