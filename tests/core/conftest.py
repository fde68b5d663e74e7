"""Frontends of registered models: tokenizer, template and media of a tiny checkpoint, no weights loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from vlcore.config import LoadConfig
from vlcore.family import ModelFamily
from vlcore.model import Frontend, build_frontend
from vlcore.plugins import get_registry
from vlcore.resolve import resolve_model


@pytest.fixture(scope="session")
def open_frontend(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Frontend]:
    """Opens the frontend of a model by its registered name; a family's checkpoint is written once a session."""
    registry = get_registry()
    families = registry.families.values()

    @cache
    def write(family: str) -> Path:
        found = next(known for known in families if known.name == family)
        folder = tmp_path_factory.mktemp(family) / "tiny"
        folder.mkdir()
        owner = registry.owner_of(found).name
        registry.call("write_tiny", owner, family=found, folder=folder, texts=["What is it?"], seed=0)
        return folder

    def owns(family: ModelFamily, model: str) -> bool:
        return any(record.name == model for record in family.models)

    @cache
    def make(model: str) -> Frontend:
        family = next(family.name for family in families if owns(family, model))
        return build_frontend(resolve_model(LoadConfig(model=str(write(family)), model_type=model)))

    return make
