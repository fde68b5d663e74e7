"""DeepSeek-VL 1.3B and 7B for vlcore, from the original releases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.hookspecs import hookimpl

from vlcore_deepseek_vl.family import FAMILY

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
    """DeepSeek-VL, both sizes."""
    return [FAMILY]


@hookimpl
def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer from the release's `tokenizer.json`."""
    from vlcore_deepseek_vl.release import load_tokenizer

    return load_tokenizer(checkpoint.folder)


@hookimpl
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel:
    """The native model, with one vision tower or two as `config.json` says."""
    from vlcore.weights import load_pretrained

    from vlcore_deepseek_vl.modeling import choose_class
    from vlcore_deepseek_vl.release import native_config

    return load_pretrained(choose_class(checkpoint.config), native_config(checkpoint), checkpoint, config)


@hookimpl
def build_template(checkpoint: Checkpoint) -> Template:
    """The one prompt format of the family."""
    from vlcore_deepseek_vl.template import build_template

    return build_template(checkpoint)


@hookimpl
def preprocess_media(checkpoint: Checkpoint, tokenizer: Tokenizer) -> MediaProcessor:
    """Padded squares as `preprocessor_config.json` asks for."""
    from vlcore_deepseek_vl.media import SquareProcessor

    return SquareProcessor.read(checkpoint, tokenizer)


@hookimpl
def write_tiny(family: ModelFamily, folder: Path, texts: Sequence[str], seed: int) -> bool:
    """A tiny checkpoint of the 1.3B's kind."""
    from vlcore_deepseek_vl.tiny import write_tiny

    write_tiny(folder, texts, seed)
    return True
