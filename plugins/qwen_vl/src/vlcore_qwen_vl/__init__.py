"""Qwen-VL for vlcore, from the original releases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.hookspecs import hookimpl

from vlcore_qwen_vl.family import FAMILY

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
    """Qwen-VL, the first generation."""
    return [FAMILY]


@hookimpl
def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer from `qwen.tiktoken`."""
    from vlcore_qwen_vl.release import load_tokenizer

    return load_tokenizer(checkpoint.folder)


@hookimpl
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel:
    """The native model; an Int4 release needs the library that transformers reads GPTQ with."""
    from vlcore.weights import load_pretrained

    from vlcore_qwen_vl.modeling import QwenVLForConditionalGeneration
    from vlcore_qwen_vl.release import check_quantization, native_config

    check_quantization(checkpoint, config)
    return load_pretrained(QwenVLForConditionalGeneration, native_config(checkpoint), checkpoint, config)


@hookimpl
def build_template(checkpoint: Checkpoint) -> Template:
    """ChatML, or plain text for the base model, as `generation_config.json` says."""
    from vlcore_qwen_vl.template import build_template

    return build_template(checkpoint)


@hookimpl
def preprocess_media(checkpoint: Checkpoint, tokenizer: Tokenizer) -> MediaProcessor:
    """Pictures at the one size that `config.json` names."""
    from vlcore_qwen_vl.media import SquareProcessor

    return SquareProcessor.read(checkpoint, tokenizer.token_id("<imgpad>"))


@hookimpl
def write_tiny(folder: Path, texts: Sequence[str], seed: int) -> bool:
    """A tiny Qwen-VL-Chat on pictures of 56 pixels."""
    from vlcore_qwen_vl import tiny

    tiny.write_tiny(folder, texts=texts, seed=seed)
    return True
