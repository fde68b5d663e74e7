"""Packs of training rows, and a test that the model keeps the rows of a pack apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch.utils.data import Dataset

from vlcore.batch import IGNORED, Example, Layout, Pack, collate_packs, trace
from vlcore.errors import UsageError
from vlcore.messages import user
from vlcore.packing import Packs
from vlcore.train.blank import SIZE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vlcore.media import MediaProcessor
    from vlcore.model import Frontend

#: Logits of a batch, (rows, positions, vocabulary).
Forward = Callable[[Mapping[str, "torch.Tensor"]], "torch.Tensor"]
#: What a neighbour may change, as part of what a row's own beginning changes: rounding of 8-bit weights stays below.
TOLERANCE = 0.05
#: A text of some tokens in any tokenizer.
PROBE = "Which of the three boats on the river is the red one?"


class PackedExamples(Dataset[Pack]):
    """Examples as packs, encoded each time they are asked for."""

    def __init__(self, examples: Dataset[Example], packs: Packs) -> None:
        self.examples, self.packs = examples, packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> Pack:
        return Pack(tuple(self.examples[row] for row in self.packs[index].tolist()))


def needs_flat(model: PreTrainedModel) -> bool:
    """Whether all packs of a batch must share one row: flash attention looks for borders in a single row alone."""
    return "flash" in str(model.config.get_text_config()._attn_implementation)


def refuse_overlay(frontend: Frontend) -> None:
    """Refuses packing for models whose prompts or pictures look both ways, before anything is loaded.

    Raises:
        UsageError: with the reason.
    """
    if "token_type_ids" in make_row(frontend.tokenizer.encode(PROBE), frontend.media).tracks:
        why = "this model looks both ways within pictures or prompts, which transformers cannot keep to one packed row"
        raise UsageError("packing true", why, "use --group_by_length true instead")


def check_apart(forward: Forward, ids: Sequence[int], flat: bool, frontend: Frontend | None = None) -> None:
    """Holds a model to keeping packed rows apart: another first row must not change the scores of the second one.

    Both batches have the same shape, so rounding hardly differs whatever the dtype. How much is too much is told by
    the same two beginnings with the second row as their continuation. A row with a picture must besides have the
    same scores before and behind another row.

    Args:
        forward: the model as it is trained, dropout off.
        ids: ids of a text, at least two of them different.
        flat: as for `collate_packs`.
        frontend: makes the row with a picture, and all that the model takes of positions; None for ids alone.

    Raises:
        UsageError: when a row sees another one.
    """
    media = frontend.media if frontend else None
    first, other, row = (make_row(part, media) for part in (ids, ids[::-1], ids))
    scores = [
        forward(collate_packs([pack], 0, flat))[:, -len(ids) :].float()
        for start in (first, other)
        for pack in (Pack((start, row)), Pack((make_row((*start.ids, *ids), media),)))
    ]
    seen, own = (float((scores[n] - scores[n + 2]).abs().max()) for n in (0, 1))
    if frontend:
        picture = make_picture(frontend)
        behind = forward(collate_packs([Pack((first, picture))], 0, flat))[:, len(ids) :]
        before = forward(collate_packs([Pack((picture, first))], 0, flat))[:, : len(picture)]
        seen = max(seen, float((behind.float() - before.float()).abs().max()))
    if seen > TOLERANCE * own:
        why = f"the model lets rows see what is packed before them (its scores move by {seen:.2g} of {own:.2g})"
        raise UsageError("packing true", why, "use --group_by_length true instead, or another --attn")


def make_row(ids: Sequence[int], media: MediaProcessor | None = None) -> Example:
    """A row of text without labels."""
    layout = Layout(tuple(ids), (IGNORED,) * len(ids), (), (), "")
    return Example(layout, tracks=trace(layout, media) if media else {})


def make_picture(frontend: Frontend) -> Example:
    """A question about a picture that is not the same everywhere."""
    from PIL import Image as PilImage

    return frontend.encode([user(PROBE, [PilImage.linear_gradient("L").resize(SIZE).convert("RGB")])])
