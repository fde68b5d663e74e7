"""transformers' own layout of a model: its names, its configuration, and no need of vlcore to load it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import UsageError
from vlcore.export.merger import Merger
from vlcore.weights import WEIGHT_ENDINGS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from vlcore.config import LoadConfig
    from vlcore.resolve import Checkpoint

#: Files of a release that a native folder does not take along: they describe or run the release's own layout.
LEFT_BEHIND = ("config.json", "vlcore.json", "sft_config.json", "val.jsonl")


def write_native(release: Checkpoint, config: LoadConfig, adapter: Path | None, folder: Path) -> None:
    """Writes a model in transformers' layout, an adapter merged into it where there is one.

    The tokenizer's and processor's files are the release's.

    Raises:
        UsageError: when transformers has no class that is built as the family's model is.
    """
    from tqdm import tqdm

    model = release.call("load_model", config=replace(config, device_map="meta"))
    native = find_native(release, model)
    merger = Merger(model, release, adapter)
    native.dtype = next(iter(merger.outline_native().values())).dtype
    native.save_pretrained(folder)
    copy_plain(release.folder, folder)
    with tqdm(total=merger.size, unit="B", unit_scale=True, desc="writing") as bar:
        merger.write_native(folder, bar.update)


def find_native(release: Checkpoint, model: PreTrainedModel) -> PretrainedConfig:
    """The configuration under which transformers' own class holds the tensors of a family's model.

    Raises:
        UsageError: when there is no such class.
    """
    parents = [kind for kind in type(model).__mro__ if is_native(kind)]
    if not parents or list_added(model.config, changed=True) or not holds_same(
        parents[0], found := narrow_config(model.config, parents[0]), model
    ):
        why = f"transformers has no class that is built as models of family {release.family.name} are"
        raise UsageError("layout native", why, "use --layout release, which vlcore and the release's code load")
    return found


def is_native(kind: type[Any]) -> bool:
    """Whether a class is a complete model of transformers' own, one that its automatic classes find."""
    from transformers import AutoModelForImageTextToText

    config = getattr(kind, "config_class", None)
    mapping: Any = AutoModelForImageTextToText._model_mapping
    return kind.__module__.startswith("transformers.") and config in mapping.keys() and mapping[config] is kind  # noqa: SIM118


def narrow_config(config: PretrainedConfig, kind: Any) -> PretrainedConfig:
    """A family's configuration as one of transformers' class, without the fields that the family added."""
    added = list_added(config)
    values = {name: value for name, value in config.to_dict().items() if name not in added}
    values |= {"model_type": kind.config_class.model_type, "architectures": [kind.__name__]}
    narrow: PretrainedConfig = kind.config_class.from_dict(values)
    return narrow


def list_added(config: PretrainedConfig, changed: bool = False) -> set[str]:
    """The fields that a family added to a configuration of transformers; only those off their default on demand.

    One off its default makes the family's model compute something that transformers' does not.
    """
    kinds = [kind for kind in type(config).__mro__ if not kind.__module__.startswith("transformers.")]
    added = {name for kind in kinds for name in vars(kind).get("__annotations__", {})}
    return {name for name in added if not changed or getattr(config, name) != getattr(type(config), name, None)}


def holds_same(kind: Any, config: PretrainedConfig, model: PreTrainedModel) -> bool:
    """Whether a class has the tensors of a model, by names and shapes."""
    import torch

    with torch.device("meta"):
        other = kind._from_config(config)
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (other, model)]
    return shapes[0] == shapes[1]


def copy_plain(source: Path, folder: Path) -> None:
    """Takes along what is neither weights, nor code, nor of the release's own layout."""
    for path in sorted(source.iterdir()):
        if path.is_file() and path.name not in LEFT_BEHIND and not path.name.endswith((*WEIGHT_ENDINGS, ".py")):
            shutil.copyfile(path, folder / path.name)
