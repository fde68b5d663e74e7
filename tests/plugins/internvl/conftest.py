from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore_internvl.tiny import write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """A tiny checkpoint of a kind, written once a session for each set of changes."""
    made: dict[str, Path] = {}

    def make(kind: str = "qwen2", **changes: Any) -> Checkpoint:
        key = f"{kind} {changes}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny")
            write_tiny(made[key], kind, width=64, texts=["What is it?"], **changes)
        return open_checkpoint(made[key])

    return make


@pytest.fixture(scope="session")
def recorded() -> Callable[[str], Checkpoint]:
    """A recorded checkpoint by the name of its folder."""
    data = Path(__file__).parents[2] / "parity" / "data" / "internvl"
    return lambda name: open_checkpoint(data / f"{name}-tiny" / "checkpoint")
