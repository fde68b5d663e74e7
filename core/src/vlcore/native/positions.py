"""What native models take of each position besides its id: axes of rotary embeddings, kinds of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vlcore.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from vlcore.batch import Layout
    from vlcore.native.media import NativeMedia

#: Model types whose prompts attend both ways from end to end, and count positions from 1.
WHOLE = frozenset({"paligemma"})


def trace_positions(media: NativeMedia, layout: Layout) -> Mapping[str, torch.Tensor]:
    """The tracks of a conversation (`vlcore.batch.Example`)."""
    import torch

    if media.config.model_type in WHOLE:
        answer = next((at for at, label in enumerate(layout.labels) if label >= 0), len(layout))
        places = torch.arange(len(layout))
        # A single axis: the model itself counts from 1 where it generates.
        return {"token_type_ids": (places >= answer).long(), "position_ids": places + 1}
    rope = find_rope(media.config)
    if rope is not None:
        return {"position_ids": place_axes(rope, layout, find_kinds(media, layout))}
    kinds = {"mm_token_type_ids", "token_type_ids"} & media.inputs
    wanted = kinds if media.processor.return_mm_token_type_ids else ()
    return {name: find_kinds(media, layout) for name in wanted}


def find_kinds(media: NativeMedia, layout: Layout) -> torch.Tensor:
    """1 where a model puts what it sees of a picture, else 0, (positions,)."""
    import torch

    kinds = torch.zeros(len(layout), dtype=torch.long)
    marks = set(media.processor.image_token_ids)
    for start, end in layout.spans:
        kinds[start:end] = torch.tensor([int(token in marks) for token in layout.ids[start:end]])
    return kinds


def find_rope(config: Any) -> Any:
    """A model without weights that can tell the axes of its rotary embeddings, or None when it has a single one."""
    from transformers import MODEL_MAPPING

    found: Any = MODEL_MAPPING.get(type(config), None)
    if found is None or not hasattr(found, "get_rope_index"):
        return None
    model = found.__new__(found)
    object.__setattr__(model, "config", config)  # all that it looks at
    return model


def place_axes(rope: Any, layout: Layout, kinds: torch.Tensor) -> torch.Tensor:
    """Positions, (4, positions): plain ones, then frames, rows and columns as the model's class tells them.

    Raises:
        CheckpointError: for a model whose rotary embeddings have another number of axes.
    """
    import torch

    plain = torch.arange(len(layout))
    grids = [plan.detail.grid for plan in layout.plans]
    if not grids:
        return plain.expand(4, -1)
    axes, _ = rope.get_rope_index(
        input_ids=torch.tensor([layout.ids]), mm_token_type_ids=kinds[None], image_grid_thw=torch.tensor(grids))
    if axes.shape[0] != 3:
        why = f"its rotary embeddings have {axes.shape[0]} axes, 3 are known"
        raise CheckpointError(f"a model of type {rope.config.model_type}", why, "install a plugin for it")
    return torch.cat([plain[None], axes[:, 0]])
