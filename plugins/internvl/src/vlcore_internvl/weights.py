"""The release's tensor names and transformers': one table, used for loading and, reversed, for saving."""

from __future__ import annotations

from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter, WeightRenaming

#: Parts of names outside the language model. `.attn.` keeps its first dot: Qwen3 has `self_attn.q_norm`.
TOWER_NAMES = {
    "^vision_model.": "^model.vision_tower.",
    ".embeddings.class_embedding": ".embeddings.cls_token",
    ".embeddings.position_embedding": ".embeddings.position_embeddings",
    ".embeddings.patch_embedding.": ".embeddings.patch_embeddings.projection.",
    ".encoder.layers.": ".encoder.layer.",
    ".attn.q_norm.": ".attention.q_norm.",
    ".attn.k_norm.": ".attention.k_norm.",
    ".attn.proj.": ".attention.projection_layer.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
    "^mlp1.0.": "^model.multi_modal_projector.layer_norm.",
    "^mlp1.1.": "^model.multi_modal_projector.linear_1.",
    "^mlp1.3.": "^model.multi_modal_projector.linear_2.",
}
#: The language model of every release but those with InternLM2.
LANGUAGE_NAMES = {
    "^language_model.lm_head.": "^lm_head.",
    "^language_model.model.": "^model.language_model.",
}
#: InternLM2 as Llama.
INTERNLM2_NAMES = {
    "^language_model.output.": "^lm_head.",
    "^language_model.model.": "^model.language_model.",
    ".tok_embeddings.": ".embed_tokens.",
    ".attention_norm.": ".input_layernorm.",
    ".ffn_norm.": ".post_attention_layernorm.",
    ".feed_forward.w1.": ".mlp.gate_proj.",
    ".feed_forward.w3.": ".mlp.up_proj.",
    ".feed_forward.w2.": ".mlp.down_proj.",
    ".attention.wo.": ".self_attn.o_proj.",
}

#: Tensors by pattern, as transformers hands them to an operation.
Tensors = dict[str, Any]


class SplitGroups(ConversionOps):
    """InternLM2's `wqkv` into query, key and value rows.

    Its rows come in one group a key head: the group's query heads, its key, its value. With 4 query heads and
    2 key heads of d rows each: q0 q1 k0 v0 q2 q3 k1 v1. Weights, biases and int8 row scales split alike.
    """

    def convert(
        self, input_dict: Tensors, source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> Tensors:
        """One tensor in, three out by the names of the targets."""
        fused = _only(next(iter(input_dict.values())))
        groups, queries = group_heads(kwargs["config"])
        heads = fused.reshape(groups, queries + 2, -1, *fused.shape[1:])
        parts = heads[:, :queries], heads[:, queries], heads[:, queries + 1]
        split = [part.reshape(-1, *fused.shape[1:]) for part in parts]
        return dict(zip(target_patterns, split, strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        """Joins the three again."""
        return JoinGroups()


class JoinGroups(ConversionOps):
    """Query, key and value rows into InternLM2's `wqkv`; the reverse of `SplitGroups`."""

    def convert(
        self, input_dict: Tensors, source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> Tensors:
        """Three tensors in, one out."""
        groups, queries = group_heads(kwargs["config"])
        parts = zip((_only(input_dict[name]) for name in source_patterns), (queries, 1, 1), strict=True)
        heads = [part.reshape(groups, count, -1, *part.shape[1:]) for part, count in parts]
        return {target_patterns[0]: torch.cat(heads, dim=1).flatten(0, 2)}

    @property
    def reverse_op(self) -> ConversionOps:
        """Splits them again."""
        return SplitGroups()


def group_heads(config: Any) -> tuple[int, int]:
    """(key heads, query heads to each) of a native configuration's language model."""
    text = config.text_config
    return text.num_key_value_heads, text.num_attention_heads // text.num_key_value_heads


class SplitInt8(ConversionOps):
    """A fused tensor in int8 with its row scales (`SCB`), as bitsandbytes saves them, into int8 parts.

    transformers reads such pairs only where a release's tensor is one tensor of the model.
    """

    supports_many_to_many = True
    #: transformers leaves the saved dtypes to operations that have this; the scales are not int8.
    hf_quantizer = True

    def __init__(self, split: ConversionOps) -> None:
        self.split = split

    def convert(
        self, input_dict: Tensors, source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> Tensors:
        """Weight and scales in (what else there is says nothing new), the parts' weights out."""
        from transformers.integrations.bitsandbytes import Bnb8bitDeserialize

        weight, scales = source_patterns[:2]
        weights = self.split.convert({weight: input_dict[weight]}, [weight], target_patterns, **kwargs)
        rows = self.split.convert({scales: input_dict[scales]}, [scales], target_patterns, **kwargs)
        read = Bnb8bitDeserialize(None).convert
        parts = {}
        for part in target_patterns:
            layer = kwargs["full_layer_name"].replace(target_patterns[0], part)
            saved = {"weight": weights[part], "SCB": rows[part]}
            parts[part] = read(saved, model=kwargs["model"], full_layer_name=layer)["weight"]
        return parts


def list_transforms(internlm2: bool, int8: bool) -> list[WeightConverter | WeightRenaming]:
    """The table as transformers takes it; it reverses every entry by itself for saving."""
    names = TOWER_NAMES | (INTERNLM2_NAMES if internlm2 else LANGUAGE_NAMES)
    fused: list[tuple[str, str, ConversionOps]] = [(".attn.qkv.", ".attention.{}_proj.", Chunk(dim=0))]
    if internlm2:
        fused.append((".attention.wqkv.", ".self_attn.{}_proj.", SplitGroups()))
    converters = [divide(*entry) for entry in fused]
    if int8:
        converters = [*(divide_int8(*entry) for entry in fused), *converters]
    return [*(rename(source, target) for source, target in names.items()), *converters]


def rename(source: str, target: str) -> WeightRenaming:
    """One entry; the dots are literal in both directions."""
    return WeightRenaming(source.replace(".", r"\."), target.replace(".", r"\."))


def divide(source: str, target: str, operation: ConversionOps) -> WeightConverter:
    """A fused tensor and its parts for query, key and value, `{}` in their name."""
    parts = [target.format(name).replace(".", r"\.") for name in "qkv"]
    return WeightConverter(source.replace(".", r"\."), parts, operations=[operation])


def divide_int8(source: str, target: str, operation: ConversionOps) -> WeightConverter:
    """The same of int8 weights, for loading only."""
    sources = [(source + name).replace(".", r"\.") for name in ("weight", "SCB", "weight_format")]
    parts = [(target.format(name) + "weight").replace(".", r"\.") for name in "qkv"]
    return WeightConverter(sources, parts, operations=[SplitInt8(operation)])


def register(class_name: str, internlm2: bool = False, int8: bool = False) -> None:
    """Ties the table to a model class by its name."""
    register_checkpoint_conversion_mapping(class_name, list_transforms(internlm2, int8), overwrite=True)


def _only(tensors: Any) -> torch.Tensor:
    tensor: torch.Tensor = tensors[0] if isinstance(tensors, list) else tensors
    return tensor
