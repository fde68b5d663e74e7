"""A tiny random checkpoint in the release's own layout, for demos and tests. Nothing is downloaded."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcore.resolve import open_checkpoint

from vlcore_internvl.template import LAYOUTS, SYSTEM_TEXTS

#: The nine tokens every release adds, in its order.
IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
ROLE_TOKENS = ("<|im_start|>", "<|im_end|>")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of release: its language model's class, model type and template."""

    architecture: str
    model_type: str
    template: str


KINDS = {
    "qwen2": Kind("Qwen2ForCausalLM", "qwen2", "Hermes-2"),
    "internlm2": Kind("InternLM2ForCausalLM", "internlm2", "internlm2-chat"),
    "qwen3": Kind("Qwen3ForCausalLM", "qwen3", "internvl2_5"),
}


def write_tiny(
    folder: Path,
    kind: str = "qwen2",
    seed: int = 0,
    tile: int = 56,
    texts: Sequence[str] = (),
    width: int = 128,
    layers: int = 2,
    **changes: Any,
) -> None:
    """Writes a checkpoint with random weights: configuration, tokenizer, model.safetensors.

    Args:
        folder: an empty folder.
        kind: `qwen2` (as InternVL2-1B), `internlm2` (as InternVL2-2B) or `qwen3` (as InternVL3.5).
        seed: of the weights; equal seeds give equal files.
        tile: edge of a tile in pixels, a multiple of 28.
        texts: what the tokenizer should spell in few tokens; it can spell everything.
        width: hidden size of the language model; the vision tower has half of it.
        layers: layers of each.
        changes: keys of `config.json` to put in or over what is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chosen = KINDS[kind]
    layout = LAYOUTS[chosen.template]
    learnt = [*texts, SYSTEM_TEXTS["later"][chosen.template], *map(layout.role.format, ROLES)]
    vocabulary = write_pieces(folder, learnt) if kind == "internlm2" else write_bytes(folder, learnt)
    config = describe_model(chosen, vocabulary, tile, width, layers) | changes
    _write_json(folder / "config.json", config)
    write_weights(folder, seed)


def describe_model(kind: Kind, vocabulary: int, tile: int, width: int, layers: int) -> dict[str, Any]:
    """`config.json` of a release."""
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": kind.template,
        "downsample_ratio": 0.5, "ps_version": "v2", "select_layer": -1, "force_image_size": tile,
        "dynamic_image_size": True, "use_thumbnail": True, "min_dynamic_patch": 1, "max_dynamic_patch": 12,
        "use_backbone_lora": 0, "use_llm_lora": 0, "torch_dtype": "float32",
        "vision_config": {
            "model_type": "intern_vit_6b", "hidden_size": width // 2, "intermediate_size": width,
            "num_hidden_layers": layers, "num_attention_heads": 4, "image_size": tile, "patch_size": 14,
            "norm_type": "layer_norm", "layer_norm_eps": 1e-6, "qkv_bias": True, "qk_normalization": False,
            "hidden_act": "gelu", "initializer_range": 0.02,
        },
        "llm_config": {
            "architectures": [kind.architecture], "model_type": kind.model_type, "vocab_size": vocabulary,
            "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": width // 4,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "max_position_embeddings": 32768, "tie_word_embeddings": False, "initializer_range": 0.02,
        },
    }


def write_weights(folder: Path, seed: int) -> None:
    """`model.safetensors` of a folder that has the rest: initial weights, in the release's names."""
    import torch
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    from vlcore_internvl.modeling import choose_class
    from vlcore_internvl.release import native_config

    checkpoint = open_checkpoint(folder)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = choose_class(checkpoint.config)(native_config(checkpoint))
        tower = model.model.vision_tower
        # transformers' own start has no positions and layers that add little: it learns slowly.
        torch.nn.init.normal_(tower.embeddings.position_embeddings, std=0.02)
        for layer in tower.encoder.layer:
            torch.nn.init.ones_(layer.lambda_1)
            torch.nn.init.ones_(layer.lambda_2)
        # A narrow model with the usual small head could never be sure of a token that training has not met, and
        # adapters leave the head as it is.
        torch.nn.init.normal_(model.lm_head.weight, std=0.1)
    state = revert_weight_conversion(model, model.state_dict())
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(state.items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_bytes(folder: Path, texts: Sequence[str], size: int = 512) -> int:
    """vocab.json and merges.txt of a byte-level tokenizer as Qwen's; returns the size of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.model.save(str(folder))
    first = tokenizer.get_vocab_size()
    added = {first + i: token for i, token in enumerate(("<|endoftext|>", *ROLE_TOKENS, *IMAGE_TOKENS))}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    _write_added(folder, added, settings)
    return first + len(added)


def write_pieces(folder: Path, texts: Sequence[str], size: int = 512) -> int:
    """tokenizer.model as InternLM2's, the role tokens over two of its pieces; returns the size."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, model_type="bpe", vocab_size=size,
        hard_vocab_limit=False, byte_fallback=True, add_dummy_prefix=False, remove_extra_whitespaces=False,
        normalization_rule_name="identity", minloglevel=2,
        user_defined_symbols=["[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"],
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    model = SentencePieceProcessor(model_proto=written.getvalue())
    first = model.get_piece_size()
    added = {0: "<unk>", 1: "<s>", 2: "</s>", 3: ROLE_TOKENS[0], 4: ROLE_TOKENS[1]}
    added |= {first + i: token for i, token in enumerate(IMAGE_TOKENS)}
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    _write_added(folder, added, {"tokenizer_class": "InternLM2Tokenizer", **names})
    return int(first) + len(IMAGE_TOKENS)


def _write_added(folder: Path, added: Mapping[int, str], settings: Mapping[str, str]) -> None:
    """tokenizer_config.json and special_tokens_map.json."""
    tokens = {str(token_id): {"content": token, "special": True} for token_id, token in added.items()}
    names = {key: token for key, token in settings.items() if key.endswith("_token")}
    special = names | {"additional_special_tokens": [*ROLE_TOKENS, *IMAGE_TOKENS]}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": tokens})


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
