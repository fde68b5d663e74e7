"""The native model: transformers' DeepseekVL and DeepseekVLHybrid with what they lack of the releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridModel,
    DeepseekVLModel,
    PreTrainedModel,
    SamVisionModel,
    SiglipVisionModel,
)
from transformers.models.deepseek_vl_hybrid.modeling_deepseek_vl_hybrid import DeepseekVLSamVisionNeck

from vlcore_deepseek_vl.release import is_hybrid
from vlcore_deepseek_vl.vision import Aligner, Downsample, choose_aligner, normalize, shrink
from vlcore_deepseek_vl.weights import register


class DeepseekVLReleaseConfig(DeepseekVLConfig):
    """The native configuration.

    Attributes:
        aligner: `projector_type`, `depth`, `input_dim` and `n_embed` of the release.
        normalization: mean and deviation applied before SigLIP; None where the processor has done it.
    """

    model_type = "vlcore_deepseek_vl"
    aligner: dict[str, Any] | None = None
    normalization: list[list[float]] | None = None


class DeepseekVLHybridReleaseConfig(DeepseekVLHybridConfig):
    """The native configuration of a model with two towers; attributes as in `DeepseekVLReleaseConfig`.

    Attributes:
        high_res_normalization: mean and deviation applied before SAM.
        downsample_channels: channels behind each convolution that halves SAM's map.
        concat_type: how the features of both towers meet.
    """

    model_type = "vlcore_deepseek_vl_hybrid"
    aligner: dict[str, Any] | None = None
    normalization: list[list[float]] | None = None
    high_res_normalization: list[list[float]] | None = None
    downsample_channels: list[int] | None = None
    concat_type: str = "tuple"


class SiglipTower(SiglipVisionModel):
    """SigLIP under a name of its own, for the part of the weights' table that is its alone."""


class DeepseekVLReleaseModel(DeepseekVLModel):
    """The model with SigLIP alone, without its head."""

    config: DeepseekVLReleaseConfig

    def __init__(self, config: DeepseekVLReleaseConfig) -> None:
        # The parent's own parts would be built for nothing, so its constructor is passed over.
        super(DeepseekVLModel, self).__init__(config)
        self.vision_model = SiglipTower(config.vision_config)  # type: ignore[arg-type]
        self.aligner = Aligner(**(config.aligner or {}))  # type: ignore[assignment]
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Features of pictures, (images, 3, edge, edge), as `pooler_output`."""
        return super().get_image_features(normalize(pixel_values, self.config.normalization), **kwargs)


class DeepseekVLHybridReleaseModel(DeepseekVLHybridModel):
    """The model with SAM beside SigLIP, without its head. Both see the same pictures, 0 to 1."""

    config: DeepseekVLHybridReleaseConfig

    def __init__(self, config: DeepseekVLHybridReleaseConfig) -> None:
        super(DeepseekVLHybridModel, self).__init__(config)
        sam: Any = config.high_res_vision_config
        if "flash" in str(sam._attn_implementation):
            sam._attn_implementation = "sdpa"  # its relative positions are a bias, which flash attention cannot add
        self.global_attn_index = min(sam.global_attn_indexes)
        self.high_res_vision_model = SamVisionModel(sam)
        self.high_res_vision_neck = DeepseekVLSamVisionNeck(sam)
        channels = [sam.output_channels, *(config.downsample_channels or ())]
        self.high_res_vision_proj = Downsample(channels)  # type: ignore[assignment]
        self.high_res_vision_alpha = nn.Parameter(torch.zeros(1))
        self.vision_model = SiglipTower(config.vision_config)  # type: ignore[arg-type]
        self.aligner = choose_aligner(config.concat_type, config.aligner or {})  # type: ignore[assignment]
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, input_ids: torch.Tensor | None = None, pixel_values: torch.Tensor | None = None, *,
                high_res_pixel_values: None = None, **kwargs: Any) -> Any:
        """As the parent's, with one kind of pixels."""
        return super().forward(
            input_ids=input_ids, pixel_values=pixel_values, high_res_pixel_values=pixel_values, **kwargs
        )

    def get_image_features(self, pixel_values: torch.Tensor, high_res_pixel_values: Any = None, **kwargs: Any) -> Any:
        """Features of pictures, (images, 3, edge, edge), as `pooler_output`."""
        config: Any = self.config
        dtype = self.high_res_vision_model.vision_encoder.patch_embed.projection.weight.dtype
        low = normalize(shrink(pixel_values, config.vision_config.image_size), config.normalization)
        high = normalize(pixel_values, config.high_res_normalization).to(dtype)
        return super().get_image_features(low, high, **kwargs)


class DeepseekVLReleaseForConditionalGeneration(DeepseekVLForConditionalGeneration):
    """A release of the 1.3B's kind."""

    config_class = DeepseekVLReleaseConfig

    def __init__(self, config: DeepseekVLReleaseConfig) -> None:
        super(DeepseekVLForConditionalGeneration, self).__init__(config)
        self.model = DeepseekVLReleaseModel(config)
        self.lm_head = make_head(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        """What is put at image positions, as `pooler_output`: (images, tokens, hidden)."""
        return self.model.get_image_features(pixel_values, return_dict=True)


class DeepseekVLHybridReleaseForConditionalGeneration(DeepseekVLHybridForConditionalGeneration):
    """A release of the 7B's kind."""

    config_class = DeepseekVLHybridReleaseConfig

    def __init__(self, config: DeepseekVLHybridReleaseConfig) -> None:
        super(DeepseekVLHybridForConditionalGeneration, self).__init__(config)
        self.model = DeepseekVLHybridReleaseModel(config)
        self.lm_head = make_head(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(self, pixel_values: torch.Tensor) -> Any:
        """What is put at image positions, as `pooler_output`: (images, tokens, hidden)."""
        return self.model.get_image_features(pixel_values, return_dict=True)


#: Model classes by whether SAM stands beside SigLIP.
MODELS: dict[bool, type[PreTrainedModel]] = {
    False: DeepseekVLReleaseForConditionalGeneration,
    True: DeepseekVLHybridReleaseForConditionalGeneration,
}
register({model.__name__: hybrid for hybrid, model in MODELS.items()}, tower=SiglipTower.__name__)


def choose_class(config: Mapping[str, Any]) -> type[PreTrainedModel]:
    """The class for a release's `config.json`."""
    return MODELS[is_hybrid(config)]


def make_head(text_config: Any) -> nn.Linear:
    """The output layer."""
    return nn.Linear(text_config.hidden_size, text_config.vocab_size, bias=False)
