"""Tiny checkpoints of native model types, and models of them, written and loaded once each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import vlcore
from PIL import Image
from vlcore.config import LoadConfig
from vlcore.model import Frontend, VLModel, build_frontend
from vlcore.native.tiny import write_tiny
from vlcore.resolve import resolve_model

TEXTS = ["What is this? A cat. Two cats."]


@pytest.fixture(scope="session")
def native_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint by its model type."""

    @cache
    def write(model_type: str) -> Path:
        folder = tmp_path_factory.mktemp("native") / model_type
        folder.mkdir()
        write_tiny(model_type, folder, TEXTS)
        return folder

    return write


@pytest.fixture(scope="session")
def native_frontend(native_folder: Callable[[str], Path]) -> Callable[[str], Frontend]:
    """The frontend of a tiny checkpoint."""
    return cache(lambda model_type: build_frontend(resolve_model(LoadConfig(model=str(native_folder(model_type))))))


@pytest.fixture(scope="session")
def native_model(native_folder: Callable[[str], Path]) -> Callable[[str], VLModel]:
    """The model of a tiny checkpoint."""
    return cache(lambda model_type: vlcore.load_model(native_folder(model_type), dtype="fp32"))


@pytest.fixture(scope="session")
def pictures() -> list[Any]:
    """Pictures of odd sizes: wide, tall, small, large."""
    numbers = numpy.random.default_rng(0)
    sizes = ((61, 37), (33, 100), (9, 12), (150, 90))
    return [Image.fromarray(numbers.integers(0, 255, (height, width, 3), dtype=numpy.uint8)) for width, height in sizes]
