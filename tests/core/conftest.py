"""Frontends of registered models: tokenizer, template and media of a tiny checkpoint, no weights loaded."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
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


@pytest.fixture
def write_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts distributions beside the installed ones: metadata, an entry point and its module, as pip leaves them."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(site)

    def write(name: str, version: str = "1.2.3", *, requires: Sequence[str] = (), extras: Sequence[str] = (),
              point: str = "", code: str = "") -> None:
        module = name.replace("-", "_")
        info = site / f"{module}-0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        fields = [("Metadata-Version", "2.4"), ("Name", name), ("Version", version),
                  *(("Requires-Dist", text) for text in requires), *(("Provides-Extra", extra) for extra in extras)]
        (info / "METADATA").write_text("\n".join(f"{field}: {text}" for field, text in fields), "utf8")
        (info / "entry_points.txt").write_text(f"[vlcore]\n{point} = {module}\n" if point else "", "utf8")
        (site / f"{module}.py").write_text(code, "utf8")
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()

    return write
