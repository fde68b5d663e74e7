from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore_qwen_vl.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """A tiny checkpoint of a kind, written once a session for each set of changes."""
    made: dict[str, Path] = {}

    def make(kind: str = "chat", **changes: Any) -> Checkpoint:
        key = f"{kind} {changes}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny")
            write_tiny(made[key], kind, texts=["What is it?"], **changes)
        return open_checkpoint(made[key])

    return make


@pytest.fixture(scope="session")
def recorded() -> Checkpoint:
    """The recorded checkpoint of the base model."""
    folder = Path(__file__).parents[2] / "parity" / "data" / "qwen_vl" / "qwen-vl-tiny" / "checkpoint"
    return open_checkpoint(folder)
