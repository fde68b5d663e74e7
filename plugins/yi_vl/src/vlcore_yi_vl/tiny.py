"""A tiny random checkpoint in the release's own layout, for demos and tests. Nothing is downloaded."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.resolve import open_checkpoint
from vlcore.shards import write_index, write_tensors

from vlcore_yi_vl.template import ENDS, ROLES, SYSTEM

if TYPE_CHECKING:
    import torch

#: Where the release keeps the copy of the vision tower that it does not read.
STALE = "model.vision_tower.vision_tower."
#: Pieces with a place of their own in front of what is learnt, from id 3 on.
MARKS = ("<|Human|>", "<|Assistant|>", "<|System|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "\n")


@dataclass(frozen=True, slots=True)
class Kind:
    """What tells one release from another.

    Attributes:
        size: as it stands in the name of the vision folder.
        heads: attention heads, and how many of them have keys of their own.
        weights: name of the main weights, by which their format is chosen.
    """

    size: str
    heads: tuple[int, int]
    weights: str

    @property
    def vision(self) -> str:
        """The folder of the vision tower."""
        return f"vit/clip-vit-H-14-laion2B-s32B-b79K-yi-vl-{self.size}-448"


KINDS = {
    "6b": Kind("6B", (4, 2), "model.safetensors"),
    "34b": Kind("34B", (7, 1), "pytorch_model.bin"),
}


def write_tiny(
    folder: Path,
    kind: str = "6b",
    seed: int = 0,
    image: int = 56,
    texts: Sequence[str] = (),
    width: int = 112,
    layers: int = 2,
    **changes: Any,
) -> None:
    """Writes a checkpoint with random weights: configuration, tokenizer, main weights in two files, vision folder.

    Args:
        folder: an empty folder.
        kind: `6b` (main weights in safetensors) or `34b` (in `.bin`, other heads).
        seed: of the weights; equal seeds give equal files.
        image: side of a picture in pixels, a multiple of 14.
        texts: what the tokenizer should spell in few tokens; it can spell everything.
        width: hidden size of the language model, a multiple of 56; the vision tower has half of it.
        layers: layers of the language model; the vision tower has one more, whose last is not used.
        changes: keys of `config.json` to put in or over what is written.
    """
    chosen = KINDS[kind]
    vision = folder / chosen.vision
    vision.mkdir(parents=True)
    prompts = [SYSTEM, *(f"{ENDS[role]} {name}" for role, name in ROLES.items())]
    vocabulary = write_pieces(folder, [*texts, *prompts])
    _write_json(folder / "config.json", describe_model(chosen, vocabulary, width, layers) | changes)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    _write_json(vision / "config.json", describe_vision(image, width // 2, layers + 1))
    _write_json(vision / "preprocessor_config.json", describe_pictures(image))
    write_weights(folder, chosen, seed)


def describe_model(kind: Kind, vocabulary: int, width: int, layers: int) -> dict[str, Any]:
    """`config.json` of a release."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava",
        "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": kind.heads[0], "num_key_value_heads": kind.heads[1],
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 5000000.0, "rope_scaling": None,
        "max_position_embeddings": 4096, "attention_bias": False, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.02,
        "image_aspect_ratio": "pad", "mm_hidden_size": width // 2, "mm_projector_type": "mlp2x_gelu_Norm",
        "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2, "mm_vision_tower": f"./{kind.vision}", "torch_dtype": "float32",
    }


def describe_vision(image: int, width: int, layers: int) -> dict[str, Any]:
    """`config.json` of the vision folder."""
    return {
        "architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model", "hidden_act": "gelu",
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_channels": 3, "image_size": image, "patch_size": 14,
        "layer_norm_eps": 1e-5, "projection_dim": width, "torch_dtype": "float32",
    }


def describe_pictures(image: int) -> dict[str, Any]:
    """`preprocessor_config.json` of the vision folder."""
    return {
        "image_processor_type": "CLIPImageProcessor", "resample": 3, "rescale_factor": 1 / 255,
        "size": {"shortest_edge": image}, "crop_size": {"height": image, "width": image},
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }


def write_weights(folder: Path, kind: Kind, seed: int) -> None:
    """The weights of a folder that has the rest, with a copy of the vision tower that nobody is to read."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    from vlcore_yi_vl.modeling import YiVLForConditionalGeneration
    from vlcore_yi_vl.release import native_config

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = YiVLForConditionalGeneration(native_config(open_checkpoint(folder)))
        state = revert_weight_conversion(model, model.state_dict())
        vision = {name: tensor for name, tensor in state.items() if name.startswith("vision_model.")}
        stale = {STALE + name: torch.randn_like(tensor) for name, tensor in vision.items()}
    main = {name: tensor for name, tensor in state.items() if name not in vision}
    write_tensors(folder / kind.vision / "pytorch_model.bin", vision)
    write_shards(folder, kind.weights, [main, stale])


def write_shards(folder: Path, name: str, shards: Sequence[Mapping[str, torch.Tensor]]) -> None:
    """Weights in several files, and their index."""
    stem, _, ending = name.partition(".")
    places: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.{ending}"
        write_tensors(folder / file, tensors)
        places |= dict.fromkeys(tensors, file)
    size = sum(tensor.numel() * tensor.element_size() for tensors in shards for tensor in tensors.values())
    write_index(folder, name, places, size)


def write_pieces(folder: Path, texts: Sequence[str], size: int = 512) -> int:
    """The tokenizer's files as Yi's; returns the size of the vocabulary."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=written, model_type="bpe", vocab_size=size,
        hard_vocab_limit=False, byte_fallback=True, split_digits=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
        bos_piece="<|startoftext|>", eos_piece="<|endoftext|>", user_defined_symbols=list(MARKS),
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    names = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<unk>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": False, "legacy": True}
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(folder / "tokenizer_config.json", settings | names)
    return int(SentencePieceProcessor(model_proto=written.getvalue()).get_piece_size())


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf8")
