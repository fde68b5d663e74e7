from __future__ import annotations

import pytest
import torch
from vlcore.batch import IGNORED, Example, Layout, Pack, collate, count_tokens
from vlcore.train.blank import collate_filled

BLANK = Example(Layout((9, 9, 9), (IGNORED,) * 3, (), (), ""), {"pixel_values": torch.zeros(1, 3, 4, 4)})


def row(*ids: int, pixels: bool = False) -> Example:
    held = {"pixel_values": torch.ones(1, 3, 4, 4)} if pixels else {}
    return Example(Layout(ids, ids, (), (), ""), held)


def test_a_batch_with_a_picture_stays_as_it_is() -> None:
    rows = [row(1, 2), row(3, pixels=True)]
    filled, plain = collate_filled(rows, 0, BLANK), collate(rows, 0)
    assert all(torch.equal(filled[name], plain[name]) for name in plain)


def test_without_a_blank_nothing_is_added() -> None:
    assert "pixel_values" not in collate_filled([row(1)], 0, None)


def test_the_blank_stands_behind_the_first_row_masked_and_unlabelled() -> None:
    batch = collate_filled([row(1, 2), row(3)], 0, BLANK)
    assert batch["input_ids"].tolist() == [[1, 2, 9, 9, 9], [3, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, *[IGNORED] * 3], [3, *[IGNORED] * 4]]
    assert batch["pixel_values"].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("flat", [False, True])
def test_the_blank_behind_packs_is_seen_by_none_and_not_counted(flat: bool) -> None:
    packs = [Pack((row(1, 2), row(3, 4))), Pack((row(5, 6),))]
    batch, plain = (collate_filled(packs, 0, blank, flat) for blank in (BLANK, None))
    width = plain["input_ids"].shape[1]
    assert all(torch.equal(batch[name][:, :width], plain[name]) for name in plain)
    assert batch["input_ids"][0, width:].tolist() == [9, 9, 9]
    assert not batch["position_ids"][:, width:].any()
    assert (batch["labels"][:, width:] == IGNORED).all()
    assert count_tokens(batch) == count_tokens(plain) == 6
    assert batch["pixel_values"].shape == (1, 3, 4, 4)


def test_packs_with_a_picture_stay_as_they_are() -> None:
    packs = [Pack((row(1, 2), row(3, pixels=True)))]
    assert "attention_mask" not in collate_filled(packs, 0, BLANK)
    assert collate_filled(packs, 0, BLANK)["input_ids"].tolist() == [[1, 2, 3]]
