"""Kestrel's configuration and tensor names, and the class of transformers that computes it."""

from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from vlcore.weights import load_pretrained

#: Beginnings of names: the release's, and those of the class below.
NAMES = {
    r"^eye\.": r"^model\.vision_tower\.",
    r"^bridge\.in\.": r"^model\.multi_modal_projector\.linear_1\.",
    r"^bridge\.out\.": r"^model\.multi_modal_projector\.linear_2\.",
    r"^voice\.": r"^model\.language_model\.",
    r"^words\.": r"^lm_head\.",
}


class KestrelConfig(LlavaConfig):
    model_type = "vlcore_kestrel"


class KestrelForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = KestrelConfig


register_checkpoint_conversion_mapping(
    "KestrelForConditionalGeneration", [WeightRenaming(*pair) for pair in NAMES.items()], overwrite=True
)


def native_config(release):
    """transformers' configuration of a release's `config.json`."""
    return KestrelConfig(
        text_config={"model_type": "llama", **release["text"]},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **release["vision"]},
        image_token_index=release["pixel_token"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )


def load_model(checkpoint, config):
    return load_pretrained(KestrelForConditionalGeneration, native_config(checkpoint.config), checkpoint, config)
