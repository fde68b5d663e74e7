"""Attention over packed rows, each computed alone.

transformers gives sdpa one mask for a whole pack, and sdpa then computes every position with every other one, most of
which the mask leaves out. Flash attention's kernels take the borders of rows instead; this is the same for sdpa.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

#: First position, the one behind the last, and whether every position of it is a conversation of its own.
Span = tuple[int, int, bool]
#: The name under which transformers knows it.
NAME = "vlcore_rows"


def use_rows(model: PreTrainedModel) -> None:
    """Lets a language model with sdpa compute packed rows alone; other implementations stay.

    Batches with a mask, such as those of an evaluation, are computed as before.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    text = model.config.get_text_config()
    if text._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend_rows)
        AttentionMaskInterface.register(NAME, make_mask)
        text._attn_implementation = NAME


def make_mask(*, attention_mask: torch.Tensor | None = None, **shape: Any) -> torch.Tensor | None:
    """The mask of a padded batch; none for packs, whose positions tell the rows.

    Packs of a model that looks both ways within pictures get the mask that transformers makes of both.
    """
    from transformers.masking_utils import sdpa_mask

    plain = attention_mask is None and not is_overlaid(**shape)
    return None if plain else sdpa_mask(attention_mask=attention_mask, **shape)


def is_overlaid(mask_function: Any = None, use_vmap: bool = False, **_: Any) -> bool:
    """Whether a mask, as transformers' functions describe it to their interfaces, shows more than what is before."""
    from transformers.masking_utils import causal_mask_function, or_masks

    united = or_masks(causal_mask_function).__code__
    return use_vmap or getattr(mask_function, "__code__", None) is united


def attend_rows(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
    attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None = None, **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers' layers call it.

    Args:
        module: the layer.
        query: (batch, heads, positions, width); `key` and `value` perhaps with fewer heads.
        key: see `query`.
        value: see `query`.
        attention_mask: of a padded batch; None for packs.
        position_ids: (batch, positions), 0 where a row begins.
        settings: `dropout`, `scaling`, `sliding_window` and the like.

    Returns:
        (batch, positions, heads, width), and no attention weights.
    """
    import torch
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    if attention_mask is not None or position_ids is None or query.shape[2] == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    window, groups = settings.get("sliding_window"), query.shape[1] // key.shape[1]
    batch = []
    for row, spans in enumerate(find_spans(position_ids) * (len(query) // len(position_ids))):
        pieces = []
        for start, end, alone in spans:
            part = slice(row, row + 1), slice(None), slice(start, end)
            if alone:  # nothing but itself to look at
                pieces.append(repeat_kv(value[part], groups).transpose(1, 2))
                continue
            mask = make_band(end - start, window, query.device) if window and end - start > window else None
            found, _ = sdpa_attention_forward(module, query[part], key[part], value[part], mask, **settings)
            pieces.append(found)
        batch.append(torch.cat(pieces, 1))
    return torch.cat(batch), None


def find_spans(position_ids: torch.Tensor) -> list[list[Span]]:
    """For each row of a batch: where a conversation begins and ends, neighbours of one position together.

    The lists are kept at the tensor, which all layers share: reading it waits for a GPU.

    >>> import torch
    >>> find_spans(torch.tensor([[0, 1, 2, 0, 1, 0, 0]]))
    [[(0, 3, False), (3, 5, False), (5, 7, True)]]
    """
    found: list[list[Span]] | None = getattr(position_ids, "_vlcore_spans", None)
    if found is None:
        found = [list(list_spans(positions)) for positions in position_ids.tolist()]
        position_ids._vlcore_spans = found  # type: ignore[attr-defined]
    return found


def list_spans(positions: Sequence[int]) -> Iterator[Span]:
    """The spans of one row."""
    starts = [at for at, position in enumerate(positions) if position == 0]
    lengths = [end - start for start, end in pairwise([*starts, len(positions)])]
    at = 0
    for alone, run in groupby(lengths, lambda length: length == 1):
        for length in [sum(run)] if alone else run:
            yield at, at + length, alone
            at += length


def make_band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """The mask of a row that sees only so many positions back, (1, 1, length, length)."""
    import torch

    whole = torch.ones((length, length), dtype=torch.bool, device=device).tril()
    return whole.triu(1 - window)[None, None]
