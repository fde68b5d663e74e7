from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from vlcore.attention import attend_rows, find_spans, make_mask

#: Two rows of a batch: three conversations and two positions of padding, one conversation.
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])


def make_inputs(heads: int, shared: int) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = SimpleNamespace(num_key_value_groups=heads // shared, is_causal=True)
    query = torch.randn(2, heads, 10, 8)
    return layer, query, torch.randn(2, shared, 10, 8), torch.randn(2, shared, 10, 8)


def block_mask(window: int = 0) -> torch.Tensor:
    row = (POSITIONS == 0).cumsum(-1)
    seen = (row[:, :, None] == row[:, None, :]) & torch.ones(10, 10, dtype=torch.bool).tril()
    return (seen.triu(1 - window) if window else seen)[:, None]


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("window", [0, 2])
def test_rows_apart_are_what_a_mask_of_blocks_gives(heads: int, shared: int, window: int) -> None:
    layer, query, key, value = make_inputs(heads, shared)
    expected, _ = sdpa_attention_forward(layer, query, key, value, block_mask(window))
    found, _ = attend_rows(layer, query, key, value, None, position_ids=POSITIONS, sliding_window=window or None)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_padded_batch_is_computed_with_its_mask() -> None:
    layer, query, key, value = make_inputs(4, 4)
    mask = block_mask()
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask)
    found, _ = attend_rows(layer, query, key, value, mask, position_ids=POSITIONS)
    assert torch.equal(found, expected)


def test_only_batches_with_padding_get_a_mask() -> None:
    shape: dict[str, Any] = {"batch_size": 1, "q_length": 3, "kv_length": 3, "allow_is_causal_skip": False}
    assert make_mask(**shape) is None
    padded = make_mask(attention_mask=torch.tensor([[True, True, False]]), **shape)
    assert padded is not None
    assert padded[0, 0].tolist() == [[True, False, False], [True, True, False], [True, True, False]]


def test_packs_get_the_mask_of_a_model_that_looks_both_ways_within_pictures() -> None:
    row, picture = torch.tensor([[0, 0, 0, 1]]), torch.tensor([[-1, 0, 0, -1]])
    packed = masking_utils.packed_sequence_compatibility_function(
        masking_utils.causal_mask_function, torch.tensor([[0, 1, 2, 0]]), row)
    shape: dict[str, Any] = {"batch_size": 1, "q_length": 4, "kv_length": 4, "allow_is_causal_skip": False}
    assert make_mask(mask_function=packed, **shape) is None
    both = masking_utils.or_masks(packed, masking_utils.blockwise_overlay(picture))
    mask = make_mask(mask_function=both, **shape)
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_borders_are_read_once_a_batch() -> None:
    positions = POSITIONS.clone()
    assert find_spans(positions) is find_spans(positions)
    assert find_spans(positions)[1] == [(0, 10, False)]
