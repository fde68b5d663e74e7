"""What is served under which name: the model, and each adapter on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlcore.checkpoint import ADAPTER_CONFIG, RUN_FILE, load_adapter, read_run
from vlcore.config import LoadConfig, pick
from vlcore.errors import UsageError
from vlcore.model import Frontend, VLModel, adopt_options, build_frontend, resolve_adapted
from vlcore.resolve import resolve_model
from vlcore.serve.settings import ServeConfig


@dataclass(frozen=True, slots=True)
class Served:
    """A name that requests choose by.

    Attributes:
        name: the name.
        model: the model, with the options that this adapter was trained with.
        adapter: PEFT's name of the adapter, None for the model without one.
    """

    name: str
    model: VLModel
    adapter: str | None = None


def open_served(config: ServeConfig) -> dict[str, Served]:
    """Loads a model and its adapters, by the names they are served under, the model first.

    Raises:
        ModelNotFound, CheckpointError: as `open_model`.
        UsageError: for two of one name.
    """
    from transformers import GenerationConfig

    load, folders = find_adapters(config)
    first = next(iter(folders.values()), None)
    checkpoint = resolve_adapted(load, first) if first else resolve_model(load)
    name = config.served_name or checkpoint.name
    if name in folders:
        raise UsageError(f"name {name}", "the model and an adapter have it", "give --served_name")
    frontend = build_frontend(checkpoint, load.family_options)
    module: Any = checkpoint.call("load_model", config=load)
    # Generation settings come from requests and the family alone, never from files of the checkpoint.
    module.generation_config = GenerationConfig()
    known = {adapter: f"adapter{number}" for number, adapter in enumerate(folders)}
    for adapter, inside in known.items():
        module = load_adapter(module, folders[adapter], name=inside)
    module.eval()
    made = {adapter: Served(adapter, VLModel(adopt(frontend, folders[adapter]), module), inside)
            for adapter, inside in known.items()}
    return {name: Served(name, VLModel(frontend, module)), **made}


def find_adapters(config: ServeConfig) -> tuple[LoadConfig, Mapping[str, Path]]:
    """What to load, and the folders of its adapters by name; one that is given as the model comes first."""
    load = pick(LoadConfig, config)
    folders = {name: Path(folder) for name, folder in config.adapters}
    given = Path(config.ckpt_dir or config.model or "-")
    own: Path | None = None
    if config.ckpt_dir and (given / RUN_FILE).is_file():
        run = read_run(given)
        load, own = load if run.adapter else run.adopt(load), run.adapter
    elif config.ckpt_dir:
        load = replace(load, model=config.ckpt_dir)
    elif (given / ADAPTER_CONFIG).is_file():
        own = given
    if own is None:
        return adopt_options(load), folders
    if own.name in folders:
        raise UsageError(f"--adapter {own.name}", "the checkpoint has this name", "give it another name")
    # The folder of an adapter is no model: the one it names is loaded.
    return replace(load, model="" if Path(load.model) == own else load.model), {own.name: own, **folders}


def adopt(frontend: Frontend, folder: Path) -> Frontend:
    """A frontend with the options of its family that an adapter was trained with, those given before them."""
    if not (folder / RUN_FILE).is_file():
        return frontend
    return replace(frontend, options={**read_run(folder).config.family_options, **frontend.options})
