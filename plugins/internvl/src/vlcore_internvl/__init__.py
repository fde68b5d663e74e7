"""InternVL 1.2 to 3.5 for vlcore, from the original releases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.hookspecs import hookimpl

from vlcore_internvl.family import FAMILY

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from vlcore.config import LoadConfig
    from vlcore.family import ModelFamily
    from vlcore.media import MediaProcessor
    from vlcore.resolve import Checkpoint
    from vlcore.template import Template
    from vlcore.tokenizer import Tokenizer


@hookimpl
def register_models() -> Iterable[ModelFamily]:
    """InternVL, all generations."""
    return [FAMILY]


@hookimpl
def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer from the release's own files."""
    from vlcore_internvl.release import load_tokenizer

    return load_tokenizer(checkpoint.folder)


@hookimpl
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel:
    """The native model, its class chosen by the language model's tensor names."""
    from vlcore.weights import choose_dtype, load_pretrained

    from vlcore_internvl.modeling import InternVLReleaseInt8, cast_plain, choose_class
    from vlcore_internvl.release import native_config

    kind = choose_class(checkpoint.config)
    model = load_pretrained(kind, native_config(checkpoint), checkpoint, config)
    if kind is InternVLReleaseInt8:
        cast_plain(model, choose_dtype(config.dtype, checkpoint.config))
    return model


@hookimpl
def build_template(checkpoint: Checkpoint) -> Template:
    """The template that `config.json` names, with the system text of its generation."""
    from vlcore_internvl.template import build_template

    return build_template(checkpoint)


@hookimpl
def preprocess_media(checkpoint: Checkpoint, tokenizer: Tokenizer) -> MediaProcessor:
    """Tiles of the size that `config.json` names."""
    from vlcore_internvl.media import TileProcessor

    return TileProcessor.read(checkpoint, tokenizer.token_id("<IMG_CONTEXT>"))


@hookimpl
def write_tiny(folder: Path, texts: Sequence[str], seed: int) -> bool:
    """A tiny InternVL2 with a Qwen2 language model, on tiles of 56 pixels."""
    from vlcore_internvl import tiny

    tiny.write_tiny(folder, texts=texts, seed=seed)
    return True
