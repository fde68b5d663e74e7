"""A blank picture for batches without any, where several processes must all run the vision tower.

DeepSpeed's processes exchange weights or gradients layer by layer: one that leaves the tower out for rows of text
would stop the others. The blank stands behind the end of the first row, where nothing looks at it: it is masked, or,
among packed rows, each of its positions is a conversation of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlcore.batch import IGNORED, Example, Layout, Pack, collate, collate_packs, load_pixels
from vlcore.media import Slot
from vlcore.messages import Image
from vlcore.template import EncodeOptions

if TYPE_CHECKING:
    import torch

    from vlcore.model import Frontend

#: (width, height) in pixels.
SIZE = (28, 28)


def make_blank(frontend: Frontend) -> Example:
    """A black picture as an example of its image positions alone."""
    from PIL import Image as PilImage

    slot = Slot((Image(PilImage.new("RGB", SIZE)),), (SIZE,))
    checkpoint = frontend.checkpoint
    options = EncodeOptions(train=True, family=checkpoint.family.read_options(frontend.options, checkpoint.record))
    (plan,) = frontend.media.plan((slot,), options)
    ids = (frontend.media.image_token_id,) * plan.tokens if plan.ids is None else plan.ids
    layout = Layout(ids, (IGNORED,) * len(ids), (slot,), (plan,), "", ((0, len(ids)),))
    return load_pixels(layout, frontend.media)


def collate_filled(
    items: Sequence[Example | Pack], pad_id: int, blank: Example | None, flat: bool = False
) -> dict[str, torch.Tensor]:
    """A batch as `collate` or `collate_packs` makes it, with the blank when no row has a picture.

    Args:
        items: the rows, either examples or packs.
        pad_id: fills short rows.
        blank: what is added; None for nothing. Nothing looks at it and it takes no part in the loss.
        flat: whether all packs share one row.
    """
    import torch

    packs = [item for item in items if isinstance(item, Pack)]
    examples = [item for item in items if isinstance(item, Example)]
    batch = collate_packs(packs, pad_id, flat) if packs else collate(examples, pad_id)
    examples += [example for pack in packs for example in pack.examples]
    if blank is None or any(example.pixels for example in examples):
        return batch
    fills = {"input_ids": pad_id, "labels": IGNORED}  # all else, tracks among it, is 0
    more = {name: torch.full((*held.shape[:-1], len(blank)), fills.get(name, 0)) for name, held in batch.items()}
    more["input_ids"][0] = torch.tensor(blank.ids)
    return {name: torch.cat([held, more[name]], dim=-1) for name, held in batch.items()} | dict(blank.pixels)
