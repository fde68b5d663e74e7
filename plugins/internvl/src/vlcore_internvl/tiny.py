"""A tiny random checkpoint in the release's own layout, for demos and tests. Nothing is downloaded."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlcore.resolve import open_checkpoint

from vlcore_internvl.template import LAYOUTS, SYSTEM_TEXTS

#: The nine tokens every release adds, in its order.
IMAGE_TOKENS = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
ROLE_TOKENS = ("<|im_start|>", "<|im_end|>")
HARMONY_TOKENS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of release.

    Attributes:
        architecture: the language model's class.
        model_type: the language model's model type.
        template: the template that `config.json` names.
        tokenizer: the tokenizer's class; Qwen's has bytes, InternLM's has pieces.
        llm: keys of `llm_config` that this language model has of its own, or other values.
    """

    architecture: str
    model_type: str
    template: str
    tokenizer: str = "Qwen2Tokenizer"
    llm: Mapping[str, Any] = field(default_factory=dict)


#: Of Qwen3's mixtures of experts: 128 experts, 8 to a token in the released sizes.
EXPERTS = {
    "num_experts": 12, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "router_aux_loss_coef": 0.001,
}
#: Of InternLM3.
INTERNLM3 = {
    "qkv_bias": False, "bias": False, "rms_norm_eps": 1e-5, "rope_theta": 50000000.0,
    "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
}
#: Of gpt-oss: 32 experts, 4 to a token, and a window of 128 positions in every other layer.
GPT_OSS = {
    "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "swiglu_limit": 7.0,
    "attention_bias": True, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"],
    "rms_norm_eps": 1e-5, "rope_theta": 150000.0, "max_position_embeddings": 131072,
    "rope_scaling": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}
KINDS = {
    "qwen2": Kind("Qwen2ForCausalLM", "qwen2", "Hermes-2"),
    "internlm2": Kind("InternLM2ForCausalLM", "internlm2", "internlm2-chat", "InternLM2Tokenizer"),
    "internlm3": Kind("InternLM3ForCausalLM", "internlm3", "internvl2_5", "InternLM3Tokenizer", INTERNLM3),
    "qwen3": Kind("Qwen3ForCausalLM", "qwen3", "internvl2_5"),
    "qwen3_moe": Kind("Qwen3MoeForCausalLM", "qwen3_moe", "internvl2_5", llm=EXPERTS),
    "gpt_oss": Kind("GptOssForCausalLM", "gpt_oss", "internvl3_5_gpt_oss", "PreTrainedTokenizerFast", GPT_OSS),
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
        kind: `qwen2` (as InternVL2-1B), `internlm2` (as InternVL2-2B), `internlm3` (as InternVL3-9B), `qwen3` (as
            InternVL3.5), `qwen3_moe` (as InternVL3.5-30B-A3B) or `gpt_oss` (as InternVL3.5-GPT-OSS-20B-A4B).
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
    write = write_pieces if chosen.tokenizer.startswith("InternLM") else write_bytes
    vocabulary = write(folder, learnt, chosen.tokenizer)
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
            **kind.llm,
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


def write_bytes(folder: Path, texts: Sequence[str], tokenizer: str, size: int = 512) -> int:
    """A byte-level tokenizer; returns the size of the vocabulary.

    Qwen's is vocab.json and merges.txt, gpt-oss' is tokenizer.json with all its tokens.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    bytewise = Tokenizer(models.BPE())
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bytewise.train_from_iterator(texts, trainer)
    first, qwen = bytewise.get_vocab_size(), tokenizer == "Qwen2Tokenizer"
    roles = ROLE_TOKENS if qwen else HARMONY_TOKENS
    added = {first + i: token for i, token in enumerate(("<|endoftext|>", *roles, *IMAGE_TOKENS))}
    if qwen:
        bytewise.model.save(str(folder))
    else:
        bytewise.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added.values()])
        bytewise.save(str(folder / "tokenizer.json"))
    names = {"eos_token": roles[-1], "pad_token": "<|endoftext|>"}
    _write_added(folder, added, {"tokenizer_class": tokenizer, **names})
    return first + len(added)


def write_pieces(folder: Path, texts: Sequence[str], tokenizer: str, size: int = 512) -> int:
    """tokenizer.model as InternLM's, the role tokens over two of its pieces; returns the size."""
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
    _write_added(folder, added, {"tokenizer_class": tokenizer, **names})
    return int(first) + len(IMAGE_TOKENS)


def _write_added(folder: Path, added: Mapping[int, str], settings: Mapping[str, str]) -> None:
    """tokenizer_config.json and special_tokens_map.json."""
    tokens = {str(token_id): {"content": token, "special": True} for token_id, token in added.items()}
    names = {key: token for key, token in settings.items() if key.endswith("_token")}
    written = [token for token in (*ROLE_TOKENS, *HARMONY_TOKENS, *IMAGE_TOKENS) if token in added.values()]
    special = names | {"additional_special_tokens": written}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": tokens})


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
