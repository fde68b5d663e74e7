"""The release's tensor names and transformers': one table, used for loading and, reversed, for saving."""

from __future__ import annotations

from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

#: Beginnings of names. `vision_model.` is the folder of the vision tower, everything else the main files; the
#: head has the same name on both sides, and the parts of the projector keep their numbers.
NAMES = {
    "^model.embed_tokens.": "^model.language_model.embed_tokens.",
    "^model.layers.": "^model.language_model.layers.",
    "^model.norm.": "^model.language_model.norm.",
    "^model.mm_projector.": "^model.multi_modal_projector.",
    "^vision_model.": "^model.vision_tower.",
}


def list_transforms() -> list[WeightConverter | WeightRenaming]:
    """The table as transformers takes it; it reverses every entry by itself for saving."""
    return [rename(source, target) for source, target in NAMES.items()]


def rename(source: str, target: str) -> WeightRenaming:
    """One entry; the dots are literal in both directions."""
    return WeightRenaming(source.replace(".", r"\."), target.replace(".", r"\."))


def register(class_name: str) -> None:
    """Ties the table to a model class, by name."""
    register_checkpoint_conversion_mapping(class_name, list_transforms(), overwrite=True)
