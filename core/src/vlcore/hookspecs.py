"""The hooks a plugin may fill. Each is called with keyword arguments; an implementation may take fewer.

A model has one owner: the plugin whose family record names or recognises it. Hooks for that model are called
with the other owners left out, so an implementation never asks whether a model is its own. The defaults of the
core stand behind every hook (`vlcore.native`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from vlcore.errors import VlcoreDeprecationWarning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlcore.config import LoadConfig
    from vlcore.family import DatasetRecord, ModelFamily
    from vlcore.media import MediaProcessor
    from vlcore.metrics import Metric
    from vlcore.resolve import Checkpoint
    from vlcore.template import Template
    from vlcore.tokenizer import Tokenizer

#: Version of the hooks: the second number rises when hooks or arguments are added, the first when what plugins
#: rely on changes or goes. A plugin states what it needs by the requirement on vlcore of its distribution.
VERSION = "1.0"

hookspec = pluggy.HookspecMarker("vlcore")
#: Marks an implementation: `@vlcore.hookimpl`.
hookimpl = pluggy.HookimplMarker("vlcore")


def deprecate(what: str, since: str, gone: str, do: str) -> VlcoreDeprecationWarning:
    """What the implementers of a hook or argument are told, for `warn_on_impl` and `warn_on_impl_args` of `hookspec`.

    Args:
        what: the hook or argument.
        since: the version of the hooks that deprecates it.
        gone: the version that will not have it, of a higher first number.
        do: what to use instead.

    Raises:
        ValueError: when it would be gone before the first number rises.

    >>> str(deprecate("argument config of load_model", "1.2", "2.0", "take settings"))
    'argument config of load_model is deprecated since hooks 1.2 and gone in 2.0; take settings'
    """
    if int(gone.split(".")[0]) <= int(since.split(".")[0]):
        raise ValueError(f"{what} cannot be gone in hooks {gone}: what {since} has stays until the first number rises")
    return VlcoreDeprecationWarning(f"{what} is deprecated since hooks {since} and gone in {gone}; {do}")


@hookspec
def register_models() -> Iterable[ModelFamily]:  # type: ignore[empty-body]
    """Called once, when plugins are discovered. Keep it light: no torch, no transformers.

    Returns:
        The families this plugin owns; several are allowed.

    Example: `return [FAMILY]`
    """


@hookspec
def register_datasets() -> Iterable[DatasetRecord]:  # type: ignore[empty-body]
    """Called once, when plugins are discovered. Keep it light: no datasets, no download.

    Returns:
        Data sets that users may name in `--dataset`, with a conversion of their rows. Default: `coco-en` and its kin.

    Example: `return [DatasetRecord(name="signs", huggingface="owner/signs", convert=convert_row)]`
    """


@hookspec
def register_metrics() -> Iterable[Metric]:  # type: ignore[empty-body]
    """Called once, when plugins are discovered. Keep it light: a metric imports what it needs when it scores.

    Returns:
        Measures of answers that users may name in `--metric`. Default: `exact_match`, `cer` and their kin.

    Example: `return [Metric(name="formulas", help="Formulas that are equal.", score=score_formula)]`
    """


@hookspec(firstresult=True)
def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """Called whenever text must become ids, with or without weights.

    Args:
        checkpoint: the folder, its `config.json`, its family and record.

    Returns:
        The tokenizer of the release, exact on ids. Default: the folder's `AutoTokenizer`.

    Example: `return HfTokenizer(Qwen2Tokenizer.from_pretrained(checkpoint.folder))`
    """


@hookspec(firstresult=True)
def load_model(checkpoint: Checkpoint, config: LoadConfig) -> PreTrainedModel | None:
    """Called when the weights are needed.

    Args:
        checkpoint: the folder to load.
        config: dtype, device map, quantization and attention implementation. On the device `meta` (a merge, a
            plan) the model has every shape and no weight.

    Returns:
        A native model with `forward`, `generate` and `get_image_features`, read strictly: use
        `vlcore.weights.load_pretrained`, which raises for missing and left-over tensors. Default: the model
        class that transformers has for the configuration's `model_type`.

    Example: `return load_pretrained(InternVLModel, native_config(checkpoint), checkpoint, config)`
    """


@hookspec(firstresult=True)
def build_template(checkpoint: Checkpoint) -> Template | None:
    """Called once for a loaded checkpoint.

    Args:
        checkpoint: the folder, its `config.json`, its family and record.

    Returns:
        The template that turns messages into segments. Default: for families with `native`, the chat template of
        transformers' processor; others must bring one.

    Example: `return ChatTemplate(roles=..., ends=..., stop=Stop(tokens=("<|im_end|>",)))`
    """


@hookspec(firstresult=True)
def preprocess_media(checkpoint: Checkpoint, tokenizer: Tokenizer) -> MediaProcessor | None:
    """Called once for a loaded checkpoint.

    Args:
        checkpoint: the folder, its `config.json`, its family and record.
        tokenizer: for the id that stands at image positions.

    Returns:
        The processor that plans media from their sizes and turns pixels into tensors; a family that takes videos
        gives it `choose_frames` as well (`vlcore.media.VideoProcessor`). Default: for families with `native`,
        transformers' processor; others must bring one.

    Example: `return TileProcessor(tile=448, image_token_id=tokenizer.token_id("<IMG_CONTEXT>"))`
    """


@hookspec(firstresult=True)
def write_tiny(family: ModelFamily, folder: Path, texts: Sequence[str], seed: int) -> bool | None:
    """Called for demos and tests that need a checkpoint of a family without downloading one.

    Args:
        family: the family wanted, one of the plugin's own.
        folder: an empty folder to write into.
        texts: texts that the tiny tokenizer should spell in few tokens.
        seed: of the random weights.

    Returns:
        True when a tiny random checkpoint in the release's own layout has been written. Default: one of the first
        model type in the family's `native`; none for a family without.

    Example: `write_tiny_release(folder, texts=texts, seed=seed); return True`
    """


@hookspec(firstresult=True)
def lora_targets(checkpoint: Checkpoint, model: PreTrainedModel, choice: str) -> Sequence[str] | None:
    """Called before adapters are put in.

    Args:
        checkpoint: the model's checkpoint.
        model: the native model.
        choice: `DEFAULT` (attention of the language model) or `ALL` (every linear layer but the head).

    Returns:
        Full names of the modules to adapt. Default: linear layers found by the checkpoint's `parts` and its family's
        `attention`.

    Example: `return [name for name, _ in model.named_modules() if name.endswith("c_attn")]`
    """


@hookspec(firstresult=True)
def merge(checkpoint: Checkpoint, model: PreTrainedModel, output: Path) -> bool | None:
    """Called to write a whole model in the layout of its release, after a full training.

    `vlcore export` merges adapters tensor by tensor through the mapping of loading, and calls this hook only for
    plugins that fill it: then with the whole model in float32.

    Args:
        checkpoint: the checkpoint the model came from; its other files are carried over.
        model: the native model, with adapters merged.
        output: an empty folder; it is renamed into place afterwards.

    Returns:
        True when the release has been written. Default: `vlcore.weights.save_release`, which reverses the
        mapping of loading and copies the remaining files.

    Example: `save_release(checkpoint, model, output); write_vision_folder(model, output); return True`
    """
