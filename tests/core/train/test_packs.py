from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vlcore.batch import Example, Layout
from vlcore.errors import UsageError
from vlcore.packing import pack_rows
from vlcore.train.packs import PackedExamples, check_apart, needs_flat

IDS = [3, 1, 4, 1, 5]


def add_up(apart: bool, share: float = 1.0) -> Callable[[Mapping[str, torch.Tensor]], torch.Tensor]:
    """A model whose score is the sum of the ids so far, of a row's own alone or also of those in front."""

    def forward(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        ids, starts = batch["input_ids"].float(), batch["position_ids"] == 0
        places = torch.arange(1, ids.shape[1] + 1)
        whole = (ids * places).cumsum(-1)  # ids weigh by their place, or their order would not count
        before = torch.where(starts, whole - ids * places, 0).cummax(-1).values
        return (whole - (before if apart else (1 - share) * before))[..., None]

    return forward


@pytest.mark.parametrize("flat", [False, True])
def test_a_model_that_keeps_rows_apart_passes(flat: bool) -> None:
    check_apart(add_up(apart=True), IDS, flat)


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_a_model_whose_rows_see_some_of_each_other_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="packing true: the model lets rows see what is packed before them"):
        check_apart(add_up(apart=False, share=share), IDS, flat=False)


@pytest.mark.parametrize(("attn", "flat"), [("flash_attention_2", True), ("sdpa", False), ("eager", False)])
def test_flash_attention_takes_all_packs_in_one_row(attn: str, flat: bool) -> None:
    text = SimpleNamespace(_attn_implementation=attn)
    model: Any = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    assert needs_flat(model) is flat


def test_a_pack_holds_the_examples_of_its_rows() -> None:
    rows: Any = [Example(Layout((number,) * 20, (number,) * 20, (), (), "")) for number in range(5)]
    packs = pack_rows([20] * 5, 45, seed=0)
    packed = PackedExamples(rows, packs)
    assert len(packed) == len(packs) == 3
    for number, pack in enumerate(packs):
        assert [example.ids[0] for example in packed[number].examples] == pack.tolist()
