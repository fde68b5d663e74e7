from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vlcore.errors import UsageError
from vlcore.family import ModelFamily
from vlcore.lora import choose_targets, find_linear


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        names = ("q_proj", "o_proj", "down", "head")
        self.language = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in names})
        self.vision = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2), "norm": torch.nn.LayerNorm(2)})
        self.projector = torch.nn.Linear(2, 2)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.language["head"]


@pytest.fixture
def choose(make_family: Callable[..., ModelFamily]) -> Callable[..., tuple[str, ...]]:
    family, model = make_family(), Model()

    def call(hook: str, model: Any, choice: str) -> tuple[str, ...]:
        return find_linear(checkpoint, model, choice)

    checkpoint: Any = SimpleNamespace(family=family, parts=family.parts, call=call)
    return lambda *wanted: choose_targets(checkpoint, model, wanted)  # type: ignore[arg-type]


def test_the_default_is_the_attention_of_the_language_model(choose: Callable[..., tuple[str, ...]]) -> None:
    assert choose("DEFAULT") == ("language.q_proj", "language.o_proj")


def test_all_is_every_linear_layer_but_the_head(choose: Callable[..., tuple[str, ...]]) -> None:
    language = ("language.q_proj", "language.o_proj", "language.down")
    assert choose("ALL") == (*language, "vision.q_proj", "projector")


def test_names_are_full_names_or_endings(choose: Callable[..., tuple[str, ...]]) -> None:
    assert choose("q_proj") == ("language.q_proj", "vision.q_proj")
    assert choose("vision.q_proj", "DEFAULT") == ("vision.q_proj", "language.q_proj", "language.o_proj")


def test_a_name_that_no_layer_has_brings_the_near_ones(choose: Callable[..., tuple[str, ...]]) -> None:
    with pytest.raises(UsageError, match=r"did you mean .*q_proj"):
        choose("qproj")
    with pytest.raises(UsageError, match="no module is named"):
        choose()
