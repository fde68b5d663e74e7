"""Kestrel for vlcore, from its release."""

import vlcore

from vlcore_kestrel.family import FAMILY


@vlcore.hookimpl
def register_models():
    return [FAMILY]


@vlcore.hookimpl
def load_tokenizer(checkpoint):
    from transformers import PreTrainedTokenizerFast
    from vlcore.tokenizer import HfTokenizer

    return HfTokenizer(PreTrainedTokenizerFast.from_pretrained(checkpoint.folder))


@vlcore.hookimpl
def build_template(checkpoint):
    from vlcore_kestrel.template import build_template

    return build_template()


@vlcore.hookimpl
def preprocess_media(checkpoint, tokenizer):
    from vlcore_kestrel.media import SquareProcessor

    vision = checkpoint.config["vision"]
    return SquareProcessor(vision["image_size"], vision["patch_size"], tokenizer.token_id("<pixel>"))


@vlcore.hookimpl
def load_model(checkpoint, config):
    from vlcore_kestrel.weights import load_model

    return load_model(checkpoint, config)


@vlcore.hookimpl
def write_tiny(folder, texts, seed):
    from vlcore_kestrel.tiny import write_tiny

    write_tiny(folder, texts, seed)
    return True
