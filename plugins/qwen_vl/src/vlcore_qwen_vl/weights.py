"""The release's tensor names and the native ones: one table, used for loading and, reversed, for saving.

Every entry holds the whole beginning of a name, so that none touches what another one made; `{}` is a layer's
number. `c_attn` and the resampler's `in_proj_*` are blocks of query, key and value; the tower's `in_proj` stays
whole, since its rows go head by head.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, Transpose, WeightConverter, WeightRenaming

NAMES = {
    "transformer.wte.": "model.language_model.embed_tokens.",
    "transformer.h.{}.ln_1.": "model.language_model.layers.{}.input_layernorm.",
    "transformer.h.{}.ln_2.": "model.language_model.layers.{}.post_attention_layernorm.",
    "transformer.h.{}.attn.c_attn.": "model.language_model.layers.{}.self_attn.c_attn.",
    "transformer.h.{}.attn.c_proj.": "model.language_model.layers.{}.self_attn.o_proj.",
    # The second of the two goes through SiLU.
    "transformer.h.{}.mlp.w1.": "model.language_model.layers.{}.mlp.up_proj.",
    "transformer.h.{}.mlp.w2.": "model.language_model.layers.{}.mlp.gate_proj.",
    "transformer.h.{}.mlp.c_proj.": "model.language_model.layers.{}.mlp.down_proj.",
    "transformer.ln_f.": "model.language_model.norm.",
    "transformer.visual.conv1.": "model.vision_tower.conv1.",
    "transformer.visual.positional_embedding": "model.vision_tower.positional_embedding",
    "transformer.visual.ln_pre.": "model.vision_tower.ln_pre.",
    "transformer.visual.transformer.resblocks.": "model.vision_tower.blocks.",
    "transformer.visual.attn_pool.": "model.resampler.",
    "transformer.visual.ln_post.": "model.resampler.ln_post.",
    "transformer.visual.proj": "model.resampler.projection",
}


class Share(ConversionOps):
    """One tensor for several layers: the groups of GPTQ's input rows, which query, key and value have in common."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """One tensor in, the same for each target."""
        shared = take_one(input_dict)
        return {name: shared.clone() for name in target_patterns}

    @property
    def reverse_op(self) -> ConversionOps:
        """Takes one of them again."""
        return TakeOne()


class TakeOne(ConversionOps):
    """The reverse of `Share`."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Equal tensors in, one out."""
        return {target_patterns[0]: take_one(input_dict)}

    @property
    def reverse_op(self) -> ConversionOps:
        """Shares it again."""
        return Share()


def take_one(tensors: dict[str, Any]) -> torch.Tensor:
    """The first of tensors by pattern, as transformers hands them to an operation."""
    first = next(iter(tensors.values()))
    tensor: torch.Tensor = first[0] if isinstance(first, list) else first
    return tensor


#: How each tensor of `c_attn` is divided among query, key and value; the lower four are those of Int4.
FUSED: dict[str, ConversionOps] = {
    "weight": Chunk(dim=0), "bias": Chunk(dim=0),
    "qweight": Chunk(dim=1), "qzeros": Chunk(dim=1), "scales": Chunk(dim=1), "g_idx": Share(),
}


def list_transforms() -> list[WeightRenaming | WeightConverter]:
    """The table as transformers takes it; it reverses every entry by itself for saving."""
    return [
        *(rename(*names) for names in NAMES.items()),
        *(
            convert(f".self_attn.c_attn.{kind}", [f".self_attn.{part}_proj.{kind}" for part in "qkv"], operation)
            for kind, operation in FUSED.items()
        ),
        *(
            convert(f".attn.in_proj_{kind}", [f".attn.{part}_proj.{kind}" for part in "qkv"], Chunk(dim=0))
            for kind in ("weight", "bias")
        ),
        convert("resampler.projection", ["resampler.proj.weight"], Transpose()),
    ]


def rename(source: str, target: str) -> WeightRenaming:
    """One entry; dots are literal and names are held from their start, in both directions."""
    number = r"(\d+)" if "{}" in target else ""
    return WeightRenaming(
        "^" + source.replace(".", r"\.").replace("{}", r"\1"), "^" + target.replace(".", r"\.").replace("{}", number)
    )


def convert(source: str, targets: list[str], operation: ConversionOps) -> WeightConverter:
    """A tensor and what becomes of it; dots are literal in both directions."""
    return WeightConverter(
        source.replace(".", r"\."), [target.replace(".", r"\.") for target in targets], operations=[operation]
    )


def register(class_name: str) -> None:
    """Ties the table to a model class by its name."""
    register_checkpoint_conversion_mapping(class_name, list_transforms(), overwrite=True)
