"""The native model: transformers' Llava with the release's projector and image positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaModel

from vlcore_yi_vl.family import PROJECTOR
from vlcore_yi_vl.weights import register


class YiVLConfig(LlavaConfig):
    """The native configuration; the image positions' id, -200, lies outside the vocabulary."""

    model_type = "vlcore_yi_vl"
    projector_type: str = "mlp2x_gelu_Norm"


class Projector(nn.Sequential):
    """Vision features to embeddings: Linear and LayerNorm, then GELU, Linear and LayerNorm again.

    The parts have the release's numbers as names, so the table of names needs no entry for each.
    """

    def __init__(self, config: Any) -> None:
        found = PROJECTOR.fullmatch(config.projector_type)
        depth = int(found[1]) if found else 2
        width = config.text_config.hidden_size
        parts: list[nn.Module] = [nn.Linear(config.vision_config.hidden_size, width), nn.LayerNorm(width)]
        for _ in range(depth - 1):
            parts += [nn.GELU(), nn.Linear(width, width), nn.LayerNorm(width)]
        super().__init__(*parts)


class YiVLModel(LlavaModel):
    """The model without its head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.multi_modal_projector = Projector(config)  # type: ignore[assignment]

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        """Features of pictures: `pooler_output` is (pictures, positions, hidden), inputs of the language model.

        Args:
            pixel_values: (pictures, 3, height, width).
            kwargs: for the vision tower.
        """
        output: Any = super().get_image_features(pixel_values, **{**kwargs, "return_dict": True})
        output.pooler_output = torch.stack(output.pooler_output)
        return output

    def embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of ids, (rows, positions, hidden), the pictures' features at the image positions.

        The id at image positions is never looked up: it is no token.

        Raises:
            ValueError: when image positions and features differ in number.
        """
        places = input_ids == self.config.image_token_id
        embeds: torch.Tensor = self.get_input_embeddings()(plain_ids(input_ids, self.config.image_token_id))
        features = embeds[:0, 0]
        if pixel_values is not None:
            features = self.get_image_features(pixel_values).pooler_output.flatten(0, 1)
        if int(places.sum()) != len(features):
            raise ValueError(f"{int(places.sum())} image positions for {len(features)} features of pictures")
        return embeds.masked_scatter(places.to(embeds.device)[..., None], features.to(embeds))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As transformers' Llava; ids and pictures become embeddings here.

        Args:
            input_ids: (rows, positions).
            pixel_values: (pictures, 3, height, width), of all rows in order.
            inputs_embeds: instead of both.
            kwargs: mask, positions, cache and so on.
        """
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self.embed(input_ids, pixel_values)
        return super().forward(inputs_embeds=inputs_embeds, **kwargs)


class YiVLForConditionalGeneration(LlavaForConditionalGeneration):
    """A release of Yi-VL."""

    config_class = YiVLConfig

    def __init__(self, config: Any) -> None:
        # The parent's own parts would be built for nothing, so its constructor is passed over.
        super(LlavaForConditionalGeneration, self).__init__(config)
        text = config.text_config
        self.model = YiVLModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def generate(self, inputs: torch.Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `generate`, with prompts whose image positions hold the id outside the vocabulary.

        Pictures become embeddings once, before anything is generated. So beams share them, each row with its
        own, and what looks ids up (a repetition penalty, say) sees tokens only. With a cache the pictures are those
        behind what it holds, whose embeddings are left out of account.
        """
        ids, pixels = kwargs.pop("input_ids", inputs), kwargs.pop("pixel_values", None)
        if pixels is not None:
            cache = kwargs.get("past_key_values")
            held = cache.get_seq_length() if cache is not None else 0
            new = self.model.embed(ids[:, held:], pixels)
            kwargs["inputs_embeds"] = torch.cat([new.new_zeros(len(new), held, new.shape[-1]), new], dim=1)
        if ids is not None:
            ids = plain_ids(ids, self.config.image_token_id)
        return super().generate(ids, *args, **kwargs)  # type: ignore[misc]


def plain_ids(input_ids: torch.Tensor, image_token_id: int) -> torch.Tensor:
    """Ids with the unknown token, 0, at the image positions."""
    return input_ids.masked_fill(input_ids == image_token_id, 0)


register(YiVLForConditionalGeneration.__name__)
