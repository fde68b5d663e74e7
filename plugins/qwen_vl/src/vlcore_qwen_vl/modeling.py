"""The native model: Qwen-1 that sees, from transformers' parts and what they lack."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import Cache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep

from vlcore_qwen_vl.language import QwenConfig, QwenModel
from vlcore_qwen_vl.positions import count_alpha
from vlcore_qwen_vl.vision import QwenVLVisionConfig, Resampler, VisionTower, start_positions
from vlcore_qwen_vl.weights import register


class QwenVLConfig(PreTrainedConfig):
    """The native configuration: its two parts, and the id at a picture's positions."""

    model_type = "vlcore_qwen_vl"
    sub_configs_defaults = {  # noqa: RUF012
        "text_config": SubConfigSpec(config_class=QwenConfig),
        "vision_config": SubConfigSpec(config_class=QwenVLVisionConfig),
    }

    text_config: Any = None
    vision_config: Any = None
    image_token_id: int = 151859
    tie_word_embeddings: bool = False


class QwenVLPreTrainedModel(PreTrainedModel):
    """What transformers must know of the model."""

    config: QwenVLConfig
    config_class = QwenVLConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules = ["Qwen2DecoderLayer", "Block", "Resampler"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        start_positions(module, self.config.text_config.initializer_range)


class QwenVLModel(QwenVLPreTrainedModel):
    """The model without its head."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config.vision_config)
        self.resampler = Resampler(config.vision_config)
        self.language_model = QwenModel(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(pictures, 3, edge, edge) to features, (pictures, queries, hidden)."""
        features: torch.Tensor = self.resampler(self.vision_tower(pixel_values))
        return features

    def embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of ids, (rows, positions, hidden), with the pictures' features at their positions."""
        embeds: torch.Tensor = self.language_model.embed_tokens(input_ids)
        if pixel_values is not None:
            features = self.get_image_features(pixel_values).to(embeds)
            return embeds.index_put(self.find_images(input_ids.to(embeds.device), features), features)
        return embeds

    def find_images(self, input_ids: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns of the features, each (pictures, queries).

        A picture is a whole run of its positions' id: the id alone may also have been generated.

        Raises:
            ValueError: when pictures in the ids and in the features differ in number.
        """
        queries = features.shape[1]
        inside = functional.pad(input_ids == self.config.image_token_id, (1, queries))
        begins = inside[:, 1:-queries] & ~inside[:, : -queries - 1]
        whole = inside[:, 1:-1].unfold(1, queries, 1).all(-1)
        rows, columns = (begins & whole).nonzero(as_tuple=True)
        if len(rows) != len(features):
            raise ValueError(f"the ids hold {len(rows)} pictures, the pixels {len(features)}")
        offsets = torch.arange(queries, device=input_ids.device)
        return rows[:, None].expand(-1, queries), columns[:, None] + offsets

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of ids and pictures, or of embeddings."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("the model needs input_ids or inputs_embeds")
            inputs_embeds = self.embed(input_ids, pixel_values)
        output: BaseModelOutputWithPast = self.language_model(inputs_embeds, **kwargs)
        return output


class QwenVLForConditionalGeneration(QwenVLPreTrainedModel, GenerationMixin):
    """A release of Qwen-VL."""

    def __init__(self, config: QwenVLConfig) -> None:
        super().__init__(config)
        # transformers would look for the loss by a part of the class's name.
        self.loss_type = "ForCausalLM"
        text = config.text_config
        self.model = QwenVLModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What is put at image positions: (pictures, 3, edge, edge) to (pictures, queries, hidden)."""
        features: torch.Tensor = self.model.get_image_features(pixel_values)
        return features

    def rotation_at(self, length: int) -> int:
        """What a prompt of this length does to its keys: the factor of their rotary base."""
        text = self.config.text_config
        return count_alpha(length, text.seq_length) if text.use_dynamic_ntk else 1

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, (rows, positions, vocabulary), and the loss when there are labels."""
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, pixel_values=pixel_values, **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(output.last_hidden_state, logits_to_keep))
        size = self.config.text_config.vocab_size
        loss = None if labels is None else self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=output.past_key_values,
            hidden_states=output.hidden_states, attentions=output.attentions,
        )

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers', with the pictures only where the prompt is computed."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        if not kwargs.get("is_first_iteration") and kwargs.get("use_cache", True):
            inputs.pop("pixel_values", None)
        return inputs


register(QwenVLForConditionalGeneration.__name__)
