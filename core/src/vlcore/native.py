"""The core's own plugin: defaults behind every hook, for whatever an owner does not fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlcore.config import LoadConfig
    from vlcore.family import DatasetRecord, ModelFamily
    from vlcore.metrics import Metric
    from vlcore.resolve import Checkpoint
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

    from vlcore.tokenizer import HfTokenizer

    return HfTokenizer(AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False))


@hookimpl(trylast=True)
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel:
    """The class that transformers has for the configuration's `model_type`."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vlcore.weights import load_pretrained

    native = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    return load_pretrained(AutoModelForImageTextToText, native, checkpoint, config)


@hookimpl(trylast=True)
def lora_targets(checkpoint: Checkpoint, model: PreTrainedModel, choice: str) -> Sequence[str]:
    """Linear layers by the family's parts: the language model's attention, or all but the head."""
    from vlcore.lora import find_linear

    return find_linear(checkpoint.family, model, choice)


@hookimpl(trylast=True)
def merge(checkpoint: Checkpoint, model: PreTrainedModel, output: Path) -> bool:
    """The release's layout: weights through the reversed mapping, all other files carried over."""
    from vlcore.weights import save_release

    save_release(checkpoint, model, output)
    return True
