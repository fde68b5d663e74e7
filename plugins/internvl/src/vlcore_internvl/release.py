"""The release's configuration and tokenizer files, read into native ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint, read_json
from vlcore.shards import read_places

from vlcore_internvl.family import LANGUAGE_MODELS, language_class

if TYPE_CHECKING:
    from transformers import PretrainedConfig
    from vlcore.tokenizer import Tokenizer

    from vlcore_internvl.modeling import InternVLReleaseConfig

#: Keys of `llm_config` that mean the same in transformers. A list of what is taken, not of what is dropped:
#: `attn_implementation` in it would switch flash attention on, `use_cache: false` would slow generation down.
LANGUAGE_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "max_position_embeddings",
    "original_max_position_embeddings", "attention_bias", "attention_dropout", "resid_pdrop", "embd_pdrop",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "initializer_range",
    "decoder_sparse_step", "moe_intermediate_size", "num_experts_per_tok", "num_experts", "norm_topk_prob",
    "mlp_only_layers", "router_aux_loss_coef", "num_local_experts", "swiglu_limit",
    "bos_token_id", "eos_token_id", "pad_token_id",
)
#: Keys of `vision_config`, and their names in transformers.
VISION_KEYS = {
    "hidden_size": "hidden_size", "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads",
    "num_channels": "num_channels", "image_size": "image_size", "patch_size": "patch_size",
    "hidden_act": "hidden_act", "norm_type": "norm_type", "layer_norm_eps": "layer_norm_eps",
    "qkv_bias": "attention_bias", "qk_normalization": "use_qk_norm", "attention_dropout": "attention_dropout",
    "dropout": "hidden_dropout_prob", "initializer_range": "initializer_range",
}
#: Keys that name special tokens.
SPECIAL_TOKENS = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens",
)
#: Parts of a release by the beginning of their tensors' names, and the modules they become.
PARTS = {
    "mlp1.": "model.multi_modal_projector",
    "vision_model.": "model.vision_tower",
    "language_model.model.": "model.language_model",
    "language_model.output.": "lm_head",
}


def native_config(checkpoint: Checkpoint) -> InternVLReleaseConfig:
    """The configuration of the native model.

    Raises:
        CheckpointError: for a checkpoint whose tensors are those of a PEFT model (`use_llm_lora`), or whose
            features come from a layer that is not there.
    """
    from vlcore_internvl.modeling import InternVLReleaseConfig

    config = checkpoint.config
    for key in ("use_backbone_lora", "use_llm_lora"):
        if config.get(key):
            why = f"{key} is {config[key]}: its adapters are not merged"
            raise CheckpointError(f"checkpoint {checkpoint.folder}", why, "merge them as the release says")
    layer, layers = config.get("select_layer", -1), config["vision_config"]["num_hidden_layers"]
    if not -layers - 1 <= layer <= layers:
        why = f"select_layer is {layer}, and the vision tower has {layers} layers"
        raise CheckpointError(f"checkpoint {checkpoint.folder}", why, "correct config.json")
    return InternVLReleaseConfig(
        text_config=language_config(config),
        vision_config=vision_config(config["vision_config"]),
        image_token_id=load_tokenizer(checkpoint.folder).token_id("<IMG_CONTEXT>"),
        image_seq_length=count_tile_tokens(config),
        downsample_ratio=config.get("downsample_ratio", 0.5),
        vision_feature_layer=config.get("select_layer", -1),
        # Only 3.5 has tied heads; the older releases' code never ties, whatever llm_config says.
        tie_word_embeddings=ties_head(config),
        ps_version=config.get("ps_version") or "v1",
        **read_quantization(checkpoint),
    )


def ties_head(config: Mapping[str, Any]) -> bool:
    """Whether the head is the embedding."""
    tied = bool(config["llm_config"].get("tie_word_embeddings"))
    return tied and language_class(config).startswith("Qwen3")


def count_tile_tokens(config: Mapping[str, Any]) -> int:
    """Positions one tile takes: 256 for tiles of 448 pixels, patches of 14 and a pixel shuffle of 0.5."""
    patches = tile_size(config) // config["vision_config"]["patch_size"]
    return int(patches**2 * config.get("downsample_ratio", 0.5) ** 2)


def tile_size(config: Mapping[str, Any]) -> int:
    """Edge of a tile in pixels. `vision_config.image_size` only sizes the stored position embedding."""
    return int(config.get("force_image_size") or config["vision_config"]["image_size"])


def language_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """The language model's configuration; InternLM2 becomes Llama, which is the same mathematics."""
    from transformers import AutoConfig

    llm = config["llm_config"]
    own = {key: llm[key] for key in LANGUAGE_KEYS if key in llm} | read_biases(config)
    return AutoConfig.for_model(
        LANGUAGE_MODELS[language_class(config)], **own,
        rope_parameters=read_rope(llm), tie_word_embeddings=ties_head(config),
    )


def read_biases(config: Mapping[str, Any]) -> dict[str, bool]:
    """Which linear layers of an InternLM have biases; other language models say it in transformers' words.

    Raises:
        CheckpointError: for an InternLM3 with biases in some of its layers only: transformers has none such.
    """
    llm = config["llm_config"]
    bias = bool(llm.get("bias", False))
    if language_class(config) == "InternLM2ForCausalLM":
        return {"attention_bias": bias}
    if language_class(config) != "InternLM3ForCausalLM":
        return {}
    if bool(llm.get("qkv_bias", False)) != bias:
        why = "qkv_bias differs from bias, and transformers' InternLM3 has biases everywhere or nowhere"
        raise CheckpointError("llm_config in config.json", why, "no released model is so: copy config.json again")
    return {"attention_bias": bias, "mlp_bias": bias}


def read_rope(llm: Mapping[str, Any]) -> dict[str, Any]:
    """Rope parameters in transformers' terms; Phi-3's `su` is called longrope there."""
    scaling = dict(llm.get("rope_scaling") or {})
    kinds = (scaling.pop("rope_type", None), scaling.pop("type", None))
    kind = next((kind for kind in kinds if kind), "default")
    if kind in ("su", "longrope"):
        kind = "longrope"
        scaling.setdefault("factor", llm["max_position_embeddings"] / llm["original_max_position_embeddings"])
    return {"rope_theta": llm.get("rope_theta", 10000.0), "rope_type": kind, **scaling}


def vision_config(vision: Mapping[str, Any]) -> dict[str, Any]:
    """The vision tower's configuration; `use_mean_pooling` leaves the final norm out, as the release does."""
    own = {native: vision[key] for key, native in VISION_KEYS.items() if key in vision}
    return {"model_type": "internvl_vision", "use_mean_pooling": True, **own}


def read_quantization(checkpoint: Checkpoint) -> dict[str, Any]:
    """The quantization of a checkpoint that was saved in int8, for transformers to load it as it is.

    Which modules were left out follows from the saved row scales (`SCB`), not from transformers' own rule,
    which goes by the order of modules and so differs between the release's model and the native one.
    """
    saved = checkpoint.config.get("quantization_config")
    if not saved:
        return {}
    names = [name for name in read_places(checkpoint.folder) if name.endswith(".SCB")]
    plain = [native for part, native in PARTS.items() if not any(name.startswith(part) for name in names)]
    return {"quantization_config": {**saved, "llm_int8_skip_modules": plain}}


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer from the release's files: sentencepiece, vocab.json with merges.txt, or tokenizer.json.

    Raises:
        CheckpointError: when the folder has none of them.
    """
    from vlcore.tokenizer import HfTokenizer

    from vlcore_internvl.pieces import BytePieceTokenizer, SentencePieceTokenizer

    special = read_special_tokens(folder)
    if (folder / "tokenizer.model").is_file():
        return SentencePieceTokenizer(folder, special)
    if (folder / "merges.txt").is_file():
        from transformers import Qwen2Tokenizer

        return BytePieceTokenizer(Qwen2Tokenizer.from_pretrained(folder), special)
    if (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        # The releases' transformers takes spaces before punctuation away where the files ask for it (Llama 3).
        cleans = bool(read_json(folder / "tokenizer_config.json").get("clean_up_tokenization_spaces"))
        asked: dict[str, Any] = {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": cleans}
        return HfTokenizer(PreTrainedTokenizerFast.from_pretrained(folder, **asked))
    why = "it has neither tokenizer.model, merges.txt nor tokenizer.json"
    raise CheckpointError(f"folder {folder}", why, "copy the tokenizer's files, too")


def read_special_tokens(folder: Path) -> frozenset[str]:
    """The tokens of `special_tokens_map.json`, which the release leaves out of its answers' text.

    Folders that transformers 5 has saved name them in `tokenizer_config.json` alone.
    """
    path = folder / "special_tokens_map.json"
    settings = read_json(path if path.is_file() else folder / "tokenizer_config.json")
    found: set[str] = set()
    for value in (settings[key] for key in SPECIAL_TOKENS if settings.get(key)):
        for token in value if isinstance(value, list) else [value]:
            found.add(token["content"] if isinstance(token, Mapping) else str(token))
    return frozenset(found)


def first_tokens(folder: Path) -> tuple[str, ...]:
    """Tokens a release's tokenizer writes before every prompt: a begin-of-text token, or none.

    With `legacy: false` a lone `▁` follows (Phi-3): the slow tokenizer puts it before the text and takes it
    away again only before one of its special tokens, and Phi-3's role tokens are not among those.
    """
    settings = read_json(folder / "tokenizer_config.json")
    token = settings.get("bos_token")
    adds = settings.get("add_bos_token", settings.get("tokenizer_class") != "Qwen2Tokenizer")
    if not token or not adds:
        return ()
    bos = token["content"] if isinstance(token, Mapping) else str(token)
    return (bos,) if settings.get("legacy", True) else (bos, "▁")
