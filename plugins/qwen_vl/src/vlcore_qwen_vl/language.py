"""The language model: transformers' Qwen2 with what it lacks of Qwen-1 for texts beyond the trained length."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Cache, DynamicCache, Qwen2Config, Qwen2Model
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from vlcore_qwen_vl.positions import Rotation, Stretch, choose_alphas

#: Names of the linear layers that have a bias only in quantized releases.
PLAIN_LINEAR = ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


class QwenConfig(Qwen2Config):
    """The configuration of Qwen-1.

    Attributes:
        seq_length: the trained length, beyond which frequencies and attention change.
        use_dynamic_ntk: whether the rotary base grows with the length.
        use_logn_attn: whether queries grow with their position.
        linear_bias: whether every linear layer has a bias.
    """

    model_type = "vlcore_qwen_vl_text"
    base_config_key = "text_config"
    seq_length: int = 2048
    use_dynamic_ntk: bool = True
    use_logn_attn: bool = True
    linear_bias: bool = False


class QwenAttention(Qwen2Attention):
    """Attention whose queries may be scaled by their position (log-n)."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Rotation,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(rows, positions, hidden) to the same; positions are a `Rotation`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (project(hidden_states).view(shape).transpose(1, 2) for project in projections)
        cos, sin, growth = position_embeddings
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if growth is not None:
            query = query * growth[:, None, :, None]
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class QwenModel(Qwen2Model):
    """Qwen-1 without its head."""

    config: QwenConfig

    def __init__(self, config: QwenConfig) -> None:
        super().__init__(config)
        self.rotary_emb = Stretch(config)  # type: ignore[assignment]
        for number, layer in enumerate(self.layers):
            layer.self_attn = QwenAttention(config, number)
            for name in PLAIN_LINEAR if config.linear_bias else ():
                rows, columns = layer.get_parameter(f"{name}.weight").shape
                layer.set_submodule(name, nn.Linear(columns, rows))
        self.post_init()  # type: ignore[no-untyped-call]

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As Qwen2's, from embeddings: (rows, positions, hidden)."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = count_positions(inputs_embeds, attention_mask, seen)
        # A cache of fixed size comes with masks that are made already, by the kind of layer.
        mask = attention_mask["full_attention"] if isinstance(attention_mask, dict) else create_causal_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask,
            past_key_values=past_key_values, position_ids=position_ids,
        )
        alphas = choose_alphas(position_ids, past_key_values, self.config.seq_length)
        rotation = self.rotary_emb(inputs_embeds, position_ids, alphas)
        hidden = inputs_embeds
        for layer in self.layers:
            hidden = layer(
                hidden, attention_mask=mask, position_embeddings=rotation, position_ids=position_ids,
                past_key_values=past_key_values, use_cache=use_cache, **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values if use_cache else None
        )


def count_positions(inputs: torch.Tensor, attention_mask: Any, seen: int) -> torch.Tensor:
    """Positions of inputs, (rows, positions), behind `seen` ones; padding does not count where a mask tells it."""
    width = inputs.shape[1]
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -width:]
    return torch.arange(seen, seen + width, device=inputs.device)[None]
