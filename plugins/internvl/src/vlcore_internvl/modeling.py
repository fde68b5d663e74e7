"""The native model: transformers' InternVL with what it lacks of the releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel
from transformers.models.internvl.modeling_internvl import InternVLVisionEmbeddings

from vlcore_internvl.family import language_class
from vlcore_internvl.rope import STATEFUL, OwnLengthRotary
from vlcore_internvl.weights import register


class InternVLReleaseConfig(InternVLConfig):
    """The native configuration. `ps_version` v1 leaves rows and columns swapped in the pixel shuffle."""

    model_type = "vlcore_internvl"
    ps_version: str = "v2"


class ReleaseEmbeddings(InternVLVisionEmbeddings):
    """Vision embeddings whose positions are resized in float32, whatever the model's dtype."""

    def interpolate_pos_encoding(self, embeddings: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(1, 1 + patches, hidden) positions for a picture of this size in pixels."""
        stored = self.position_embeddings
        edge = int((stored.shape[1] - 1) ** 0.5)
        patch = self.patch_embeddings.projection.kernel_size
        grid = (height // patch[0], width // patch[1])
        if grid == (edge, edge):
            return stored
        patches = stored[:, 1:].float().reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
        resized = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([stored[:, :1], resized.flatten(2).transpose(1, 2).to(stored.dtype)], dim=1)


class InternVLReleaseModel(InternVLModel):
    """The model without its head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.vision_tower.embeddings = ReleaseEmbeddings(config.vision_config)
        if config.text_config.rope_parameters["rope_type"] in STATEFUL:
            self.language_model.rotary_emb = OwnLengthRotary(config.text_config)

    def pixel_shuffle(self, vision_features: torch.Tensor, scale_factor: float = 0.5) -> torch.Tensor:
        """(tiles, rows, columns, channels) with each block of neighbours as one token."""
        shuffled: torch.Tensor = super().pixel_shuffle(vision_features, scale_factor)
        return shuffled.transpose(1, 2) if self.config.ps_version == "v1" else shuffled


class InternVLRelease(InternVLForConditionalGeneration):
    """A release whose language model has transformers' tensor names (Llama, Phi-3, Qwen2, Qwen3)."""

    config_class = InternVLReleaseConfig

    def __init__(self, config: Any) -> None:
        # The parent's own parts would be built for nothing, so its constructor is passed over.
        super(InternVLForConditionalGeneration, self).__init__(config)
        # transformers would look for the loss by a part of the class's name.
        self.loss_type = "ForCausalLM"
        text = config.text_config
        self.model = InternVLReleaseModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def rotation_at(self, length: int) -> int:
        """What a prompt of this length does to its keys, see `OwnLengthRotary`; the same for all where it is none."""
        rotary = self.model.language_model.rotary_emb
        return rotary.rotation_at(length) if isinstance(rotary, OwnLengthRotary) else 0


class InternVLReleaseInternLM2(InternVLRelease):
    """A release whose language model is InternLM2, which is Llama under other names."""


class InternVLReleaseInt8(InternVLReleaseInternLM2):
    """InternVL-Chat-V1-5-Int8, whose tensors bitsandbytes saved in 8 bit."""


def cast_plain(model: nn.Module, dtype: torch.dtype) -> None:
    """Gives all tensors but the int8 ones one dtype.

    Of an int8 release transformers leaves every weight in the dtype it was saved in, and casts biases only.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


register(InternVLRelease.__name__)
register(InternVLReleaseInternLM2.__name__, internlm2=True)
register(InternVLReleaseInt8.__name__, internlm2=True, int8=True)


def choose_class(config: Mapping[str, Any]) -> type[InternVLRelease]:
    """The class for a release's `config.json`: the tensor names decide."""
    if language_class(config) != "InternLM2ForCausalLM":
        return InternVLRelease
    return InternVLReleaseInt8 if config.get("quantization_config") else InternVLReleaseInternLM2
