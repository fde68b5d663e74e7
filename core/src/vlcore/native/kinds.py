"""What a tiny checkpoint of each native model type is made of: sizes, special tokens, chat template, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from vlcore.native.chats import (
    CHAT,
    COLON,
    HELPFUL,
    INST,
    PREFIX,
    RESPONSE,
    SEEK,
    TURN,
    UTTERANCE,
    write_template,
)

#: Edge of a picture in pixels, and of a patch before towers of whole pictures.
EDGE, PATCH = 32, 8
#: Width of the language model and of its heads.
WIDTH, HEAD = 64, 16

@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a model type's tiny checkpoint is made of.

    Attributes:
        template: the chat template, in Jinja.
        tokens: the tokenizer's special tokens by the names it has for them.
        plain: special tokens without a name.
        ids: which token a key of `config.json` numbers; a dot leads into a part of it.
        config: keys of `config.json` beside what `tiny.shrink` makes small.
        processor: name of the processor's class, and its settings.
        pictures: name of the class for pictures, and its settings.
        tower: the vision tower's name in published files that call what is in it `vision_model`; else empty.
        begins: whether the tokenizer itself puts `bos_token` before a text.
    """

    template: str
    tokens: Mapping[str, str]
    plain: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    processor: tuple[str, Mapping[str, Any]]
    pictures: tuple[str, Mapping[str, Any]]
    tower: str = ""
    begins: bool = False


_SQUARE = {"height": EDGE, "width": EDGE}
_IMAGE = {"image_token": "<image>"}
_PINPOINTS = [[EDGE, 2 * EDGE], [2 * EDGE, EDGE], [2 * EDGE, 2 * EDGE]]
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"} | _IMAGE
_CHATML = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
_VISION_MARKS = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>")
_QWEN = _CHATML | {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
_QWEN_IDS = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>",
             "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_QWEN_PICTURES = ("Qwen2VLImageProcessor", {
    "patch_size": PATCH, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": EDGE**2, "max_pixels": 4 * EDGE**2,
    "size": {"shortest_edge": EDGE**2, "longest_edge": 4 * EDGE**2}})
_ROPE: Mapping[str, Any] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
_IDEFICS = {"bos_token": "<|begin_of_text|>", "eos_token": "<end_of_utterance>", "pad_token": "<|end_of_text|>"}
_MARKS = ("<fake_token_around_image>", "<global-img>",
          *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)))
_SPLIT = {"size": {"longest_edge": 2 * EDGE}, "max_image_size": {"longest_edge": EDGE}, "do_image_splitting": True,
          "do_pad": True, "do_resize": True}
_GEMMA = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
_SEEKER = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>",
           "pad_token": "<｜end▁of▁sentence｜>", "image_token": "<image_placeholder>"}


def _qwen(processor: str, system: str, vision: Mapping[str, Any], text: Mapping[str, Any]) -> Kind:
    return Kind(
        template=write_template(CHAT, _QWEN_IMAGE, system), tokens=_QWEN, plain=_VISION_MARKS, ids=_QWEN_IDS,
        config={"vision_config": {"patch_size": PATCH, **vision}, "text_config": text},
        processor=(processor, {}), pictures=_QWEN_PICTURES,
    )


_LLAVA = Kind(
    template=write_template(COLON, "<image>\\n"), tokens=_LLAMA, ids={"image_token_index": "<image>"}, begins=True,
    config={"image_seq_length": (EDGE // PATCH) ** 2, "text_config": {"model_type": "llama"}},
    tower="vision_tower",
    processor=("LlavaProcessor", {
        "patch_size": PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
        "image_token": "<image>"}),
    pictures=("CLIPImageProcessor", {"size": {"shortest_edge": EDGE}, "crop_size": _SQUARE}),
)
_LLAVA_NEXT = Kind(
    template=write_template(INST, "<image>\\n"), tokens=_LLAMA, ids={"image_token_index": "<image>"}, begins=True,
    config={"image_grid_pinpoints": _PINPOINTS, "image_seq_length": 4, "vision_config": {"patch_size": 2 * PATCH},
            "text_config": {"model_type": "mistral", "sliding_window": None}},
    tower="vision_tower",
    processor=("LlavaNextProcessor", {
        "patch_size": 2 * PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
        "image_token": "<image>"}),
    pictures=("LlavaNextImageProcessor", {
        "size": {"shortest_edge": EDGE}, "crop_size": _SQUARE, "image_grid_pinpoints": _PINPOINTS}),
)
_ONEVISION = Kind(
    template=write_template(CHAT, "<image>\\n"), tokens=_CHATML | _IMAGE | {"video_token": "<video>"},
    plain=("<|im_start|>",), ids={"image_token_index": "<image>", "video_token_index": "<video>"},
    config={"image_grid_pinpoints": _PINPOINTS, "vision_config": {"patch_size": 2 * PATCH}},
    tower="vision_tower",
    processor=("LlavaOnevisionProcessor", {
        "num_image_tokens": 4, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9",
        "image_token": "<image>", "video_token": "<video>"}),
    pictures=("LlavaOnevisionImageProcessor", {"size": _SQUARE, "image_grid_pinpoints": _PINPOINTS}),
)
_INTERNVL = Kind(
    template=write_template(CHAT, "<IMG_CONTEXT>\\n"),
    tokens=_CHATML | {"start_image_token": "<img>", "end_image_token": "</img>",
                      "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
    plain=("<|im_start|>",), ids={"image_token_id": "<IMG_CONTEXT>"},
    config={"image_seq_length": 4, "tie_word_embeddings": False,
            "vision_config": {"patch_size": [PATCH, PATCH], "image_size": [EDGE, EDGE], "layer_scale_init_value": 1.0}},
    processor=("InternVLProcessor", {"image_seq_length": 4}),
    pictures=("GotOcr2ImageProcessor", {"size": _SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4}),
)
_IDEFICS3 = Kind(
    template=write_template(UTTERANCE), tokens=_IDEFICS | _IMAGE, plain=_MARKS, ids={"image_token_id": "<image>"},
    config={"scale_factor": 2, "text_config": {"model_type": "llama"}},
    processor=("Idefics3Processor", {"image_seq_len": 4}), pictures=("Idefics3ImageProcessor", _SPLIT),
)
_SMOLVLM = Kind(
    template=write_template(UTTERANCE), tokens=_IDEFICS | _IMAGE | {"bos_token": "<|im_start|>"}, plain=_MARKS,
    ids=_IDEFICS3.ids, config=_IDEFICS3.config, processor=("SmolVLMProcessor", {"image_seq_len": 4}),
    pictures=("SmolVLMImageProcessor", _SPLIT),
)
_PALIGEMMA = Kind(
    template=PREFIX, tokens=_GEMMA | _IMAGE, ids={"image_token_index": "<image>"},
    config={"projection_dim": WIDTH, "hidden_size": WIDTH, "text_config": {"model_type": "gemma"}},
    tower="vision_tower",
    processor=("PaliGemmaProcessor", {}),
    pictures=("SiglipImageProcessor", {"size": _SQUARE, "image_seq_length": (EDGE // PATCH) ** 2}),
)
_GEMMA3 = Kind(
    template=write_template(TURN, "<start_of_image>"),
    tokens=_GEMMA | {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
                     "image_token": "<image_soft_token>"},
    plain=("<start_of_turn>", "<end_of_turn>"), begins=True,
    ids={"image_token_index": "<image_soft_token>", "boi_token_index": "<start_of_image>",
         "eoi_token_index": "<end_of_image>"},
    config={"mm_tokens_per_image": 4, "text_config": {
        "query_pre_attn_scalar": HEAD, "layer_types": ["sliding_attention", "full_attention"]}},
    tower="vision_tower",
    processor=("Gemma3Processor", {"image_seq_length": 4}), pictures=("Gemma3ImageProcessor", {"size": _SQUARE}),
)
_DEEPSEEK = Kind(
    template=write_template(SEEK, "<image_placeholder>"), tokens=_SEEKER,
    ids={"image_token_id": "<image_placeholder>"}, begins=True,
    config={"tie_word_embeddings": False, "text_config": {"model_type": "llama"}},
    tower="model.vision_model",
    processor=("DeepseekVLProcessor", {"num_image_tokens": (EDGE // PATCH) ** 2}),
    pictures=("DeepseekVLImageProcessor", {"size": _SQUARE, "min_size": PATCH}),
)
_HYBRID = Kind(
    template=_DEEPSEEK.template, tokens=_SEEKER, ids=_DEEPSEEK.ids, begins=True,
    config={**_DEEPSEEK.config, "high_res_vision_config": {
        "image_size": 128, "patch_size": 8, "num_hidden_layers": 2, "global_attn_indexes": [1], "window_size": 4,
        "hidden_size": 32, "mlp_dim": 64, "output_channels": 8, "num_attention_heads": 2}},
    tower="model.vision_model",
    processor=("DeepseekVLHybridProcessor", {"num_image_tokens": (EDGE // PATCH) ** 2}),
    pictures=("DeepseekVLHybridImageProcessor", {
        "size": _SQUARE, "min_size": PATCH, "high_res_size": {"height": 128, "width": 128}}),
)
_AYA = Kind(
    template=write_template(RESPONSE),
    tokens={"bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>", "pad_token": "<PAD>"},
    plain=("<image>", "<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
           "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>",
           "TILE_GLOBAL", "TILE"),
    ids={"image_token_index": "<|IMG_PATCH|>"}, begins=True,
    config={"downsample_factor": 2, "text_config": {"layer_types": ["sliding_attention", "full_attention"]}},
    tower="vision_tower", processor=("AyaVisionProcessor", {
        "patch_size": PATCH, "img_size": EDGE, "downsample_factor": 2}),
    pictures=_INTERNVL.pictures,
)
_QWEN3 = _qwen("Qwen3VLProcessor", "", {
    "out_hidden_size": WIDTH, "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
}, {"rope_parameters": {**_ROPE, "mrope_interleaved": True}})
#: Every other layer has a state that goes from position to position instead of attention.
_QWEN35 = _qwen("Qwen3VLProcessor", "", {"out_hidden_size": WIDTH, "num_position_embeddings": 16}, {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": HEAD, "linear_value_head_dim": HEAD, "rope_parameters": {
        **_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5, "mrope_interleaved": True}})
#: What a tiny checkpoint can be made of, by model type.
KINDS: Mapping[str, Kind] = MappingProxyType({
    "llava": _LLAVA,
    "vipllava": replace(_LLAVA, config={**_LLAVA.config, "vision_feature_layers": [-1, -2]}),
    "llava_next": _LLAVA_NEXT,
    "llava_onevision": _ONEVISION,
    "qwen2_vl": _qwen("Qwen2VLProcessor", HELPFUL, {
        "embed_dim": WIDTH // 2, "hidden_size": WIDTH, "mlp_ratio": 2}, {"rope_parameters": _ROPE}),
    "qwen2_5_vl": _qwen("Qwen2_5_VLProcessor", HELPFUL, {
        "out_hidden_size": WIDTH, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]}, {"rope_parameters": _ROPE}),
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_5": _QWEN35,
    "qwen3_5_moe": _QWEN35,
    "internvl": _INTERNVL,
    "idefics3": _IDEFICS3,
    "smolvlm": _SMOLVLM,
    "paligemma": _PALIGEMMA,
    "gemma3": _GEMMA3,
    "deepseek_vl": _DEEPSEEK,
    "deepseek_vl_hybrid": _HYBRID,
    "aya_vision": _AYA,
})
