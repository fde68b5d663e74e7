"""Yi-VL for vlcore, from the original releases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.hookspecs import hookimpl

from vlcore_yi_vl.family import FAMILY

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
    """Yi-VL, both sizes."""
    return [FAMILY]


@hookimpl
def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer from the release's sentencepiece file."""
    from vlcore_yi_vl.release import load_tokenizer

    return load_tokenizer(checkpoint.folder)


@hookimpl
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel:
    """The native model, its vision tower from the folder that the release keeps it in."""
    from vlcore.weights import load_pretrained

    from vlcore_yi_vl.modeling import YiVLForConditionalGeneration
    from vlcore_yi_vl.release import native_config

    return load_pretrained(YiVLForConditionalGeneration, native_config(checkpoint), checkpoint, config)


@hookimpl
def build_template(checkpoint: Checkpoint) -> Template:
    """The one template of the releases."""
    from vlcore_yi_vl.template import YiVLTemplate

    return YiVLTemplate()


@hookimpl
def preprocess_media(checkpoint: Checkpoint, tokenizer: Tokenizer) -> MediaProcessor:
    """Squares of the size that the vision folder's configuration names."""
    from vlcore_yi_vl.media import SquareProcessor

    return SquareProcessor.read(checkpoint)


@hookimpl
def write_tiny(family: ModelFamily, folder: Path, texts: Sequence[str], seed: int) -> bool:
    """A tiny checkpoint with its vision tower in a folder of its own."""
    from vlcore_yi_vl.tiny import write_tiny

    write_tiny(folder, texts=texts, seed=seed)
    return True
