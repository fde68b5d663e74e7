"""The core's own plugin: defaults behind every hook, for whatever an owner does not fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.errors import PluginError
from vlcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlcore.config import LoadConfig
    from vlcore.family import DatasetRecord, ModelFamily
    from vlcore.media import MediaProcessor
    from vlcore.metrics import Metric
    from vlcore.resolve import Checkpoint
    from vlcore.template import Template
    from vlcore.tokenizer import Tokenizer


@hookimpl(trylast=True)
def register_models() -> Iterable[ModelFamily]:
    """The core knows no family."""
    return ()


@hookimpl(trylast=True)
def register_datasets() -> Iterable[DatasetRecord]:
    """COCO captions, in the forms that the documents of the first families train with."""
    from vlcore.dataset.coco import DATASETS

    return DATASETS


@hookimpl(trylast=True)
def register_metrics() -> Iterable[Metric]:
    """What the field measures answers with."""
    from vlcore.metrics.builtin import METRICS

    return METRICS


@hookimpl(trylast=True)
def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The folder's tokenizer as transformers finds it, with no code of the checkpoint."""
    from transformers import AutoTokenizer

    from vlcore.native.tokenizer import NativeTokenizer
    from vlcore.tokenizer import HfTokenizer

    if checkpoint.family.native:
        processor = checkpoint.processor
        return NativeTokenizer(processor.tokenizer, processor.all_special_multimodal_tokens)
    return HfTokenizer(AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False))


@hookimpl(trylast=True)
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel:
    """The class that transformers has for the configuration's `model_type`.

    Raises:
        PluginError: when it has none, so that the owner must load the model.
        CheckpointError: for a configuration that transformers cannot read.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    from vlcore.native.processor import load_config
    from vlcore.weights import load_pretrained

    model_type = checkpoint.config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise PluginError(f"hook load_model for {checkpoint.name}", f"plugin {checkpoint.owner} gives nothing, and "
                          f"transformers has no models of type {model_type}", "let the plugin's load_model return one")
    native = load_config(checkpoint.folder)
    return load_pretrained(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(native)], native, checkpoint, config)


@hookimpl(trylast=True)
def build_template(checkpoint: Checkpoint) -> Template | None:
    """The chat template of transformers' processor, for families that name native model types."""
    from vlcore.native.template import build_template

    return build_template(checkpoint) if checkpoint.family.native else None


@hookimpl(trylast=True)
def preprocess_media(checkpoint: Checkpoint, tokenizer: Tokenizer) -> MediaProcessor | None:
    """The pictures of transformers' processor, for families that name native model types."""
    from vlcore.native.agreement import check_agreement
    from vlcore.native.media import NativeMedia
    from vlcore.native.template import NativeTemplate

    if not checkpoint.family.native:
        return None
    media, template = NativeMedia.read(checkpoint, tokenizer), checkpoint.call("build_template")
    if isinstance(template, NativeTemplate):
        check_agreement(checkpoint, template, tokenizer, media)
    return media


@hookimpl(trylast=True)
def write_tiny(family: ModelFamily, folder: Path, texts: Sequence[str], seed: int) -> bool | None:
    """A checkpoint of the first native model type of the family, in the layout of the published ones."""
    from vlcore.native.tiny import write_tiny

    if not family.native:
        return None
    write_tiny(family.native[0], folder, texts, seed)
    return True


@hookimpl(trylast=True)
def lora_targets(checkpoint: Checkpoint, model: PreTrainedModel, choice: str) -> Sequence[str]:
    """Linear layers by the family's parts: the language model's attention, or all but the head."""
    from vlcore.lora import find_linear

    return find_linear(checkpoint, model, choice)


@hookimpl(trylast=True)
def merge(checkpoint: Checkpoint, model: PreTrainedModel, output: Path) -> bool:
    """The release's layout: weights through the reversed mapping, all other files carried over."""
    from vlcore.weights import save_release

    save_release(checkpoint, model, output)
    return True
