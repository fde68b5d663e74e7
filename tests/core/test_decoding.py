from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from transformers import GenerationConfig
from vlcore.batch import collate
from vlcore.cache import start_cache
from vlcore.decoding import decode
from vlcore.messages import user
from vlcore.model import VLModel

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT, ROCKET = DATA / "images" / "cat_small.png", DATA / "images" / "rocket_square.png"
ASKED = ([user("Hello")], [user("What is this?", [CAT])], [user("Compare them, please", [CAT, ROCKET])])


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint", dtype="fp32")


def generate(model: VLModel, own: bool, asked: Any = ASKED, **settings: Any) -> list[list[int]]:
    """Ids of prompts and answers, by our loop or by transformers'."""
    batch = model.place(collate([model.encode(messages) for messages in asked], 0, side="left"))
    inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "position_ids")}
    module: Any = model.module
    chosen = GenerationConfig(max_new_tokens=12, pad_token_id=0, **settings)
    cache = {"past_key_values": start_cache(module.config.get_text_config(decoder=True))} if own else {}
    torch.manual_seed(5)
    found: torch.Tensor = module.generate(
        **inputs, **cache, generation_config=chosen, custom_generate=decode if own else None
    )
    return found.tolist()


@pytest.mark.parametrize("asked", [ASKED, ASKED[1:2]], ids=["padded", "alone"])
@pytest.mark.parametrize("settings", [
    {"do_sample": False}, {"do_sample": False, "repetition_penalty": 1.3},
    {"do_sample": True, "temperature": 1.7, "top_p": 0.9, "top_k": 40},
], ids=["greedy", "penalised", "sampled"])
def test_it_chooses_the_tokens_that_transformers_chooses(model: VLModel, asked: Any, settings: dict[str, Any]) -> None:
    assert generate(model, True, asked, **settings) == generate(model, False, asked, **settings)


def test_rows_that_end_early_are_filled_and_the_others_go_on(model: VLModel) -> None:
    endless = generate(model, False, do_sample=False)
    start = len(endless[0]) - 12
    stop = endless[1][start + 3]
    found = generate(model, True, do_sample=False, eos_token_id=stop)
    assert found == generate(model, False, do_sample=False, eos_token_id=stop)
    assert stop in found[1][start:]


def test_a_model_with_inputs_of_its_own_is_asked_at_every_step(
    model: VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = model.module
    plain, asked = module.prepare_inputs_for_generation, []

    @functools.wraps(plain)
    def prepare(*args: Any, **inputs: Any) -> dict[str, Any]:
        asked.append(inputs.get("is_first_iteration", False))
        # `forward` takes it and does not use it.
        return {**plain(*args, **inputs), "image_sizes": torch.zeros(1)}

    expected = generate(model, True, do_sample=False)
    monkeypatch.setattr(module, "prepare_inputs_for_generation", prepare)
    assert generate(model, True, do_sample=False) == expected
    assert asked[0] and len(asked) > 10
