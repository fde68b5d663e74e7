from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore_deepseek_vl.tiny import tiny_config, write_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Checkpoint]:
    """A tiny checkpoint of a kind, written once a session for each set of changes to its `config.json`."""
    made: dict[str, Path] = {}

    def make(hybrid: bool = False, change: Callable[[dict[str, Any]], object] | None = None) -> Checkpoint:
        config = tiny_config(hybrid)
        if change:
            change(config)
        key = json.dumps(config)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny")
            write_tiny(made[key], ["What is it?"], hybrid=hybrid, config=config)
        return open_checkpoint(made[key])

    return make


@pytest.fixture(scope="session")
def recorded() -> Checkpoint:
    """The recorded checkpoint of the 7B's kind."""
    data = Path(__file__).parents[2] / "parity" / "data" / "deepseek_vl"
    return open_checkpoint(data / "deepseek-vl-7b-chat-tiny" / "checkpoint")
