"""The release's tensor names and transformers': one table, used for loading and, reversed, for saving.

Language model, aligner and most of SAM keep their leaf names. Every entry holds the whole beginning of a name,
so that none touches what another one made; `{}` is a layer's number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter, WeightRenaming

#: Outside the towers.
SHARED_NAMES = {
    "language_model.lm_head.": "lm_head.",
    "language_model.model.": "model.language_model.",
    "aligner.": "model.aligner.",
}
#: SigLIP, behind the prefix of its tower. `qkv` and `pos_embed` are converted within the tower, see below.
SIGLIP_NAMES = {
    "patch_embed.proj.": "model.vision_model.embeddings.patch_embedding.",
    "pos_embed": "model.vision_model.embeddings.pos_embed",
    "blocks.{}.norm1.": "model.vision_model.encoder.layers.{}.layer_norm1.",
    "blocks.{}.norm2.": "model.vision_model.encoder.layers.{}.layer_norm2.",
    "blocks.{}.attn.qkv.": "model.vision_model.encoder.layers.{}.self_attn.qkv.",
    "blocks.{}.attn.proj.": "model.vision_model.encoder.layers.{}.self_attn.out_proj.",
    "blocks.{}.mlp.": "model.vision_model.encoder.layers.{}.mlp.",
    "norm.": "model.vision_model.post_layernorm.",
}
#: SAM, behind the prefix of its tower.
SAM_NAMES = {
    "patch_embed.proj.": "model.high_res_vision_model.vision_encoder.patch_embed.projection.",
    "pos_embed": "model.high_res_vision_model.vision_encoder.pos_embed",
    "blocks.{}.norm1.": "model.high_res_vision_model.vision_encoder.layers.{}.layer_norm1.",
    "blocks.{}.norm2.": "model.high_res_vision_model.vision_encoder.layers.{}.layer_norm2.",
    "blocks.{}.attn.": "model.high_res_vision_model.vision_encoder.layers.{}.attn.",
    "blocks.{}.mlp.": "model.high_res_vision_model.vision_encoder.layers.{}.mlp.",
    "downsamples.": "model.high_res_vision_proj.",
    "hd_alpha_downsamples": "model.high_res_vision_alpha",
}
NECK_NAMES = {"0.": "conv1.", "1.": "layer_norm1.", "2.": "conv2.", "3.": "layer_norm2."}


class DropFirst(ConversionOps):
    """Position embeddings without their first axis, which is 1."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """(1, positions, width) to (positions, width)."""
        return {target_patterns[0]: _only(input_dict)[0]}

    @property
    def reverse_op(self) -> ConversionOps:
        """Adds it again."""
        return AddFirst()


class AddFirst(ConversionOps):
    """The reverse of `DropFirst`."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """(positions, width) to (1, positions, width)."""
        return {target_patterns[0]: _only(input_dict)[None]}

    @property
    def reverse_op(self) -> ConversionOps:
        """Drops it again."""
        return DropFirst()


def list_names(hybrid: bool) -> Iterator[tuple[str, str]]:
    """The table of a release's kind: beginnings of names there and in transformers."""
    yield from SHARED_NAMES.items()
    low = "vision_model.vision_tower_low.vision_tower." if hybrid else "vision_model.vision_tower."
    yield from ((low + source, target) for source, target in SIGLIP_NAMES.items())
    if not hybrid:
        return
    high = "vision_model.vision_tower_high.vision_tower."
    yield from ((high + source, target) for source, target in SAM_NAMES.items())
    for source, target in NECK_NAMES.items():
        yield f"{high}neck.{source}", f"model.high_res_vision_model.vision_encoder.neck.{target}"
        yield f"{high}neck_hd.{source}", f"model.high_res_vision_neck.{target}"


def rename(source: str, target: str) -> WeightRenaming:
    """One entry; dots are literal and names are held from their start, in both directions."""
    number = r"(\d+)" if "{}" in target else ""
    return WeightRenaming(
        "^" + source.replace(".", r"\.").replace("{}", r"\1"), "^" + target.replace(".", r"\.").replace("{}", number)
    )


def register(models: Mapping[str, bool], tower: str) -> None:
    """Ties the table to classes by name.

    Args:
        models: model classes, each with whether it has SAM beside SigLIP.
        tower: the class of the SigLIP tower. What is converted, and not only renamed, is tied to it, because
            the language model has a `self_attn.q_proj` as well.
    """
    for name, hybrid in models.items():
        register_checkpoint_conversion_mapping(name, [rename(*pair) for pair in list_names(hybrid)], overwrite=True)
    parts = [rf"\.self_attn\.{part}_proj\." for part in "qkv"]
    qkv = WeightConverter(r"\.self_attn\.qkv\.", parts, operations=[Chunk(dim=0)])
    positions = WeightConverter(
        r"embeddings\.pos_embed", r"embeddings\.position_embedding\.weight", operations=[DropFirst()]
    )
    register_checkpoint_conversion_mapping(tower, [qkv, positions], overwrite=True)


def _only(tensors: dict[str, Any]) -> torch.Tensor:
    value = next(iter(tensors.values()))
    tensor: torch.Tensor = value[0] if isinstance(value, list) else value
    return tensor
