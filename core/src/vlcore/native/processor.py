"""transformers' processor of a checkpoint, its pictures made by Pillow, its parts for videos and sounds left out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError, ExtraMissing, VlcoreError, first_line
from vlcore.resolve import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

#: Files that may name the processor's class, the surest first.
NAMING_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def load_processor(folder: Path) -> Any:
    """The processor of a checkpoint; no code of the checkpoint is run.

    Its pictures are made by the classes that need Pillow alone, whatever else is installed, so that the same picture
    gives the same pixels everywhere.

    Raises:
        CheckpointError: when transformers has no processor for the checkpoint, or it cannot be loaded.
        ExtraMissing: when it needs a package that is not installed.
    """
    try:
        found = find_class(folder)
        if found.__name__ == "SmolVLMProcessor" and not find_spec("num2words"):
            raise ExtraMissing("SmolVLM's processor", "num2words", "smolvlm")
        return _without_media(found).from_pretrained(folder, local_files_only=True)
    except VlcoreError:
        raise
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        do = "install what it names" if isinstance(error, ImportError) else "check that the folder is whole"
        why = f"its processor cannot be loaded ({first_line(error)})"
        raise CheckpointError(f"checkpoint {folder}", why, f"{do}, or update transformers") from error


def find_class(folder: Path) -> Any:
    """The class of the processor, as the checkpoint names it, else as transformers has it for the model type.

    Raises:
        CheckpointError: when there is none.
    """
    from transformers.models.auto import processing_auto

    names: Any = processing_auto.PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]
    named = (read_json(folder / file).get("processor_class") for file in NAMING_FILES if (folder / file).is_file())
    model_type = str(read_json(folder / "config.json").get("model_type"))
    for name in (*named, names.get(model_type)):
        found = processing_auto.processor_class_from_name(name) if name else None
        if found is not None and hasattr(found, "get_attributes"):
            return found
    raise CheckpointError(f"checkpoint {folder}", f"transformers has no processor for model_type {model_type}",
                          "update transformers, or install a plugin for it")


@cache
def _without_media(whole: Any) -> Any:
    """A processor's class whose parts for videos and sounds are left out: they would need other packages."""

    class Processor(whole):  # type: ignore[misc]
        @classmethod
        def _get_arguments_from_pretrained(cls, folder: Path, *args: Any, **kwargs: Any) -> list[Any]:
            return [_load_part(name, folder) for name in cls.get_attributes()]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            left_out = isinstance(argument, SimpleNamespace)
            return type(argument) if left_out else super().check_argument_for_proper_class(argument_name, argument)

        @classmethod
        def from_pretrained(cls, folder: Path, **kwargs: Any) -> Any:
            processor = super().from_pretrained(folder, **kwargs)
            processor.folder = folder
            if processor.chat_template is None:
                processor.chat_template = processor.tokenizer.chat_template
            return processor

        def __reduce__(self) -> Any:
            return load_processor, (self.folder,)

        def __repr__(self) -> str:
            return str(whole.__name__)  # transformers would write down all parts

    Processor.__name__ = Processor.__qualname__ = whole.__name__
    return Processor


def _load_part(name: str, folder: Path) -> Any:
    """A part of a processor by the name of its argument."""
    from transformers import AutoImageProcessor, AutoTokenizer

    if "tokenizer" in name:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if "image" in name:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
    return SimpleNamespace(num_frames=None, fps=None)


def list_tokens(processor: Any) -> Mapping[str, Any]:
    """The tokens of a vocabulary that are looked for in a text before it is cut into words."""
    return {token.content: token for token in processor.tokenizer.added_tokens_decoder.values()}


def load_config(folder: Path) -> PretrainedConfig:
    """The native configuration of a checkpoint.

    Raises:
        CheckpointError: when transformers cannot read it.
    """
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return config
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"transformers cannot read its config.json ({first_line(error)})"
        raise CheckpointError(f"checkpoint {folder}", why, "check the file, or update transformers") from error
