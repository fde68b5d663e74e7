"""A tiny random checkpoint in the release's own layout, for demos and tests. Nothing is downloaded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcore.resolve import open_checkpoint

from vlcore_qwen_vl.pieces import CUT, END, SPECIALS
from vlcore_qwen_vl.template import ROLES, SYSTEM

#: `chat_format` of `generation_config.json` by kind of release.
KINDS = {"chat": "chatml", "base": "raw"}


def write_tiny(
    folder: Path,
    kind: str = "chat",
    seed: int = 0,
    edge: int = 56,
    texts: Sequence[str] = (),
    width: int = 128,
    layers: int = 2,
    **changes: Any,
) -> None:
    """Writes a checkpoint with random weights: configuration, tokenizer, pytorch_model.bin.

    A picture takes 16 positions instead of 256, which the release's `n_queries` allows for.

    Args:
        folder: an empty folder.
        kind: `chat` (as Qwen-VL-Chat) or `base` (as Qwen-VL, which goes on with a text).
        seed: of the weights; equal seeds give equal files.
        edge: of a picture in pixels, a multiple of 14.
        texts: what the tokenizer should spell in few tokens; it can spell everything.
        width: hidden size of the language model, a multiple of 128; the vision tower has half of it.
        layers: layers of each.
        changes: keys of `config.json` to put over what is written; those of `visual` are put into it.
    """
    pieces = write_pieces(folder, [*texts, SYSTEM, *ROLES, "Picture 1: "])
    config = describe_model(pieces, edge, width, layers)
    visual = config["visual"] | changes.pop("visual", {})
    _write_json(folder / "config.json", config | changes | {"visual": visual})
    end = pieces + SPECIALS.index(END)
    generation = {
        "chat_format": KINDS[kind], "do_sample": True, "eos_token_id": end, "pad_token_id": end,
        "max_new_tokens": 512, "max_window_size": 6144, "top_k": 0, "top_p": 0.3,
    }
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer"})
    write_weights(folder, seed)


def describe_model(pieces: int, edge: int, width: int, layers: int) -> dict[str, Any]:
    """`config.json` of a release with a vocabulary of so many pieces, its embedding padded as the release's is."""
    return {
        "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "tokenizer_type": "QWenTokenizer",
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "kv_channels": width // 4, "vocab_size": -(-(pieces + len(SPECIALS)) // 64) * 64,
        "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 2048,
        "max_position_embeddings": 8192, "use_dynamic_ntk": True, "use_logn_attn": True, "no_bias": True,
        "attn_dropout_prob": 0.0, "emb_dropout_prob": 0.0, "initializer_range": 0.02, "scale_attn_weights": True,
        "tie_word_embeddings": False, "bf16": False, "fp16": False, "fp32": False, "torch_dtype": "float32",
        "visual": {
            "heads": 4, "image_size": edge, "image_start_id": pieces + SPECIALS.index("<img>"), "layers": layers,
            "mlp_ratio": 4.9231, "n_queries": 16, "output_dim": width, "patch_size": 14, "width": width // 2,
        },
    }


def write_weights(folder: Path, seed: int) -> None:
    """`pytorch_model.bin` of a folder that has the rest: initial weights, in the release's names."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion
    from vlcore.shards import SINGLE_FILES, write_tensors

    from vlcore_qwen_vl.modeling import QwenVLForConditionalGeneration
    from vlcore_qwen_vl.release import native_config

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = QwenVLForConditionalGeneration(native_config(open_checkpoint(folder)))
    write_tensors(folder / SINGLE_FILES[1], dict(sorted(revert_weight_conversion(model, model.state_dict()).items())))


def write_pieces(folder: Path, texts: Sequence[str], size: int = 512) -> int:
    """`qwen.tiktoken`: 256 bytes and pieces learnt from texts; returns how many."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(CUT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    letters = dict(zip(_list_letters(), range(256), strict=True))
    ranks = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    lines = (f"{base64.b64encode(bytes(letters[c] for c in piece)).decode()} {rank}\n" for piece, rank in ranks)
    (folder / "qwen.tiktoken").write_text("".join(lines), encoding="ascii")
    return len(ranks)


def _list_letters() -> Iterator[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it can be seen."""
    hidden = iter(range(256, 512))
    for byte in range(256):
        seen = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        yield chr(byte if seen else next(hidden))


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
