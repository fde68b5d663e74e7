"""Names to checkpoints: a folder, a hub id or a registered name becomes a `Checkpoint` with its owner."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, ModelNotFound, PluginError, UsageError, suggest_near
from vlcore.family import ModelFamily, ModelRecord, Parts, WeightFolder
from vlcore.hub import download_model
from vlcore.plugins import NATIVE, Registry, get_registry

#: Written beside a checkpoint that vlcore made, to remember which registered model it came from.
ORIGIN_FILE = "vlcore.json"
#: Families of plugins that exist, to name the one that is missing.
KNOWN_PLUGINS = {
    "internvl_chat": "vlcore-internvl",
    "multi_modality": "vlcore-deepseek-vl",
    "qwen": "vlcore-qwen-vl",
    "llava": "vlcore-yi-vl",
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and who owns it.

    Attributes:
        folder: the folder with `config.json` and the weights.
        config: `config.json` as it was read.
        family: the family it belongs to.
        record: the registered model it is, when that is known.
        owner: name of the plugin that owns it.
    """

    folder: Path
    config: Mapping[str, Any]
    family: ModelFamily
    record: ModelRecord | None
    owner: str

    @property
    def name(self) -> str:
        """The registered name, else the folder's."""
        return self.record.name if self.record else self.folder.resolve().name

    @property
    def weight_folders(self) -> tuple[WeightFolder, ...]:
        """The folders with its weights, its own first."""
        return self.family.weight_folders(self.config, self.folder)

    @cached_property
    def parts(self) -> Parts:
        """Module prefixes of the native model's parts: the family's, else those found in the model without weights."""
        if self.family.parts is not None:
            return self.family.parts
        from vlcore.native.parts import find_parts

        return find_parts(self.call("load_model", config=LoadConfig(device_map="meta")))

    @cached_property
    def processor(self) -> Any:
        """transformers' processor, for checkpoints in its own layout.

        Raises:
            CheckpointError: when it cannot be loaded.
        """
        from vlcore.native.processor import load_processor

        return load_processor(self.folder)

    def call(self, hook: str, **arguments: Any) -> Any:
        """Calls a hook for this checkpoint's owner.

        Raises:
            PluginError: when neither the owner nor the core answers.
        """
        answer = get_registry().call(hook, self.owner, checkpoint=self, **arguments)
        if answer is None:
            raise PluginError(
                f"hook {hook} for {self.name}", f"plugin {self.owner} gives nothing", "update or uninstall the plugin"
            )
        return answer


def resolve_model(config: LoadConfig) -> Checkpoint:
    """The checkpoint that a configuration names, downloaded when it is a name or hub id.

    Raises:
        ModelNotFound: when nothing of that name exists or no plugin owns it.
        CheckpointError: when the folder has no readable `config.json`.
        PluginError: when two plugins recognise it.
        UsageError: for a vision tower that cannot be taken.
    """
    found = find_checkpoint(config)
    return choose_vision(found, config.vision_tower) if config.vision_tower else found


def choose_vision(checkpoint: Checkpoint, vision: str) -> Checkpoint:
    """The checkpoint with its vision tower taken from a folder.

    Raises:
        UsageError: when there is no such folder, or the family has its vision tower among the other weights.
    """
    family, folder = checkpoint.family, Path(vision).expanduser().resolve()
    if not family.vision_key:
        why = f"models of family {family.name} have no vision folder of their own"
        raise UsageError(f"vision_tower {vision}", why, "leave it out")
    if not (folder / "config.json").is_file():
        raise UsageError(f"vision_tower {vision}", "it is no folder with a config.json", "give the tower's folder")
    return replace(checkpoint, config={**checkpoint.config, family.vision_key: str(folder)})


def find_checkpoint(config: LoadConfig) -> Checkpoint:
    """As `resolve_model`, with the vision tower that the checkpoint itself names."""
    registry = get_registry()
    given = config.model or config.model_type
    if not given:
        raise ModelNotFound("no model", "nothing says which one", "give --model FOLDER_OR_ID or --model_type NAME")
    typed = _find_record(registry, config.model_type) if config.model_type else None
    folder = Path(given).expanduser()
    if folder.is_dir():
        return open_checkpoint(folder, typed)
    if folder.exists():
        raise ModelNotFound(f"model {given}", "it is a file", "give the folder it lies in")
    record = next((m for f in registry.families.values() for m in f.models if m.answers_to(given)), None)
    if record is None and (given.count("/") != 1 or given.startswith((".", "~", "/"))):
        names = [m.name for f in registry.families.values() for m in f.models]
        raise ModelNotFound(
            f"model {given}", "there is no such folder, registered name or hub id", suggest_near(given, names)
        )
    downloaded = download_model(record or given, token=config.hub_token, revision=config.revision)
    return open_checkpoint(downloaded, typed or record)


def open_checkpoint(folder: Path, record: ModelRecord | None = None) -> Checkpoint:
    """The checkpoint in a folder, its owner found by `config.json`.

    Args:
        folder: a release's folder.
        record: the registered model, when the user named it; else it is guessed from the folder's name and
            from what vlcore wrote beside a checkpoint it made.
    """
    registry = get_registry()
    config = read_json(folder / "config.json")
    owners = [f for f in registry.families.values() if _recognises(registry, f, config, folder)]
    if len(owners) > 1:
        plugins = [registry.owner_of(family) for family in owners]
        names = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in plugins)
        raise PluginError(f"checkpoint {folder}", f"{names} both recognise it", "uninstall one of them")
    family = owners[0] if owners else _make_family(registry, config, folder)
    own = record if record in family.models else None
    if record and own is None:
        raise ModelNotFound(
            f"model_type {record.name}", f"{folder} is a checkpoint of family {family.name}", "leave model_type out"
        )
    origin = read_json(folder / ORIGIN_FILE).get("model_type", "") if (folder / ORIGIN_FILE).is_file() else ""
    own = own or family.find_record(str(origin), folder.resolve().name, _hub_name(folder))
    owner = registry.owner_of(family).name if owners else NATIVE
    if owners and family.native and not family.options:
        from vlcore.native.family import list_options

        family = replace(family, options=list_options(folder))
    return Checkpoint(folder, config, family, own, owner)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CheckpointError: when the file is missing, is not JSON or not an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        present = sorted(p.name for p in path.parent.iterdir())[:8] if path.parent.is_dir() else []
        raise CheckpointError(
            f"folder {path.parent}",
            f"it has no {path.name}",
            f"give a checkpoint's folder (here: {', '.join(present) or 'nothing'})",
        ) from error
    except ValueError as error:
        raise CheckpointError(f"file {path}", f"it is not JSON ({error})", "download or copy it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"file {path}", "it holds no JSON object", "download or copy it again")
    return data


def _find_record(registry: Registry, name: str) -> ModelRecord:
    models = [m for f in registry.families.values() for m in f.models]
    record = next((m for m in models if m.answers_to(name)), None)
    if record is None:
        near = suggest_near(name, [m.name for m in models])
        raise ModelNotFound(f"model_type {name}", "no plugin registers it", near)
    return record


def _recognises(registry: Registry, family: ModelFamily, config: Mapping[str, Any], folder: Path) -> bool:
    """Whether a family says that a checkpoint is its own; one that stumbles over it does not."""
    try:
        return family.owns(config, folder)
    except Exception as error:
        # Families look at each other's configurations: what one did not expect must not stop the others.
        plugin = registry.owner_of(family)
        warnings.warn(
            f"plugin {plugin.name} of {plugin.distribution} {plugin.version} could not look at {folder}: "
            f"{type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False


def _hub_name(folder: Path) -> str:
    """The model's name when the folder is a snapshot in the Hugging Face cache (`models--ORG--NAME/...`)."""
    parts = [p for p in folder.resolve().parts if p.startswith("models--")]
    return parts[-1].removeprefix("models--").replace("--", "/", 1) if parts else ""


def _make_family(registry: Registry, config: Mapping[str, Any], folder: Path) -> ModelFamily:
    """The family of a checkpoint that no plugin recognises, where transformers has its model type.

    Raises:
        ModelNotFound: saying why it cannot be loaded.
    """
    for family in registry.families.values():
        reason = family.reject(config, folder)
        if reason:
            raise ModelNotFound(f"checkpoint {folder}", reason, "see `vlcore models` for what can be loaded")
    model_type = str(config.get("model_type", "none"))
    plugin = find_plugin(config)
    if plugin is None:
        from vlcore.native.family import make_family

        made = make_family(config, folder)
        if made is not None:
            return made
    installed = {p.distribution for p in registry.plugins if not p.failure}
    why = f"no plugin owns a config.json with model_type {model_type}"
    if plugin:
        do = f"run: pip install {plugin}" if plugin not in installed else "install the plugin of its family"
    else:
        why += ", and this transformers has no model of it for pictures and text"
        do = "take a vision-language model, update transformers, or install the plugin of its family"
    raise ModelNotFound(f"checkpoint {folder}", why, do)


def find_plugin(config: Mapping[str, Any]) -> str | None:
    """The distribution that takes a release whose `model_type` transformers has not, or has for other checkpoints."""
    # An original LLaVA has its language model's settings beside the others, transformers' own has them apart.
    own = config.get("model_type") == "llava" and "text_config" in config
    return None if own else KNOWN_PLUGINS.get(str(config.get("model_type")))
