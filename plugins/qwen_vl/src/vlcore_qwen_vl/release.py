"""The release's configuration and tokenizer files, read into native ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError, ExtraMissing, UsageError
from vlcore.resolve import Checkpoint, read_json

if TYPE_CHECKING:
    from vlcore.config import LoadConfig

    from vlcore_qwen_vl.modeling import QwenVLConfig
    from vlcore_qwen_vl.pieces import QwenTokenizer

#: Where a checkpoint lists nothing else: turns of chat, and the tokens of history they may have.
CHAT_FORMAT, WINDOW = "chatml", 6144
#: What transformers reads GPTQ with.
GPTQ = ("optimum", "gptqmodel")


def native_config(checkpoint: Checkpoint) -> QwenVLConfig:
    """The configuration of the native model.

    Raises:
        CheckpointError: when the widths of heads do not add up to the model's.
    """
    from vlcore_qwen_vl.modeling import QwenVLConfig

    config = checkpoint.config
    if config["num_attention_heads"] * config["kv_channels"] != config["hidden_size"]:
        why = "num_attention_heads times kv_channels is not hidden_size"
        raise CheckpointError(f"checkpoint {checkpoint.folder}", why, "copy its config.json again")
    return QwenVLConfig(
        text_config=language_config(config),
        vision_config=vision_config(config),
        # Behind the tokens that begin and end a picture.
        image_token_id=config["visual"]["image_start_id"] + 2,
        tie_word_embeddings=False,
        **read_quantization(config),
    )


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's configuration: Qwen as Qwen2.

    `max_position_embeddings` and `scale_attn_weights` are left out: the release does not read them.
    """
    quantized = bool(config.get("quantization_config"))
    return {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        # The release's number counts the gate's half, too.
        "intermediate_size": config["intermediate_size"] // 2,
        "num_hidden_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": config["kv_channels"],
        "rms_norm_eps": config["layer_norm_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
        "attention_dropout": config.get("attn_dropout_prob", 0.0),
        "initializer_range": config.get("initializer_range", 0.02),
        "tie_word_embeddings": False,
        "seq_length": config["seq_length"],
        "use_dynamic_ntk": config.get("use_dynamic_ntk", True),
        "use_logn_attn": config.get("use_logn_attn", True),
        # Quantized layers have a bias everywhere.
        "linear_bias": quantized or not config.get("no_bias", True),
    }


def vision_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of vision tower and resampler."""
    visual = config["visual"]
    return {
        "hidden_size": visual["width"],
        "intermediate_size": int(visual["width"] * visual["mlp_ratio"]),
        "num_hidden_layers": visual["layers"],
        "num_attention_heads": visual["heads"],
        "image_size": visual["image_size"],
        "patch_size": visual["patch_size"],
        "output_dim": visual["output_dim"],
        "n_queries": count_queries(config),
    }


def count_queries(config: Mapping[str, Any]) -> int:
    """Positions a picture takes."""
    return int(config["visual"].get("n_queries", 256))


def read_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """The quantization of an Int4 release, with where the quantized layers are in the native model."""
    saved = config.get("quantization_config")
    return {"quantization_config": {**saved, "block_name_to_quantize": "model.language_model.layers"}} if saved else {}


def check_quantization(checkpoint: Checkpoint, config: LoadConfig) -> None:
    """Refuses an Int4 release before anything is read when it cannot be run here.

    Raises:
        UsageError: when it is to be quantized again.
        ExtraMissing: when the library that reads it is not installed.
    """
    if not checkpoint.config.get("quantization_config"):
        return
    if config.quantization_bit:
        raise UsageError(
            f"quantization_bit {config.quantization_bit}", f"{checkpoint.name} is quantized already", "leave it out"
        )
    missing = [name for name in GPTQ if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(f"model {checkpoint.name} (GPTQ)", " and ".join(missing), "int4", "vlcore-qwen-vl")


def load_tokenizer(folder: Path) -> QwenTokenizer:
    """The tokenizer from the release's `qwen.tiktoken`.

    Raises:
        CheckpointError: when it is missing or damaged.
    """
    from vlcore_qwen_vl.pieces import END, QwenTokenizer, read_ranks

    path = folder / "qwen.tiktoken"
    if not path.is_file():
        raise CheckpointError(f"folder {folder}", "it has no qwen.tiktoken", "copy the tokenizer's files, too")
    ranks = read_ranks(path.resolve(), path.stat().st_mtime_ns)
    return QwenTokenizer(ranks) if is_chat(folder) else QwenTokenizer(ranks, ends=(END,))


def is_chat(folder: Path) -> bool:
    """Whether a release talks in turns; the base model only goes on with a text."""
    return bool(read_generation(folder).get("chat_format", CHAT_FORMAT) == CHAT_FORMAT)


def read_window(folder: Path) -> int:
    """Tokens that system text and history may have."""
    return int(read_generation(folder).get("max_window_size", WINDOW))


def read_generation(folder: Path) -> Mapping[str, Any]:
    """`generation_config.json`, or nothing."""
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}
