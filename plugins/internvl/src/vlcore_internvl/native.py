"""InternVL converted to transformers' layout, by its names. The core's defaults do the rest."""

from __future__ import annotations

from collections.abc import Iterable

from vlcore.family import ModelFamily, ModelRecord
from vlcore.hookspecs import hookimpl

from vlcore_internvl.family import FAMILY as ORIGINAL

VERIFIED = "ids and logits equal to transformers' own on a tiny checkpoint of this layout"
#: A conversion of InternVL2.5 is `-hf`, as of 3; those of 3.5 are `-HF`.
CONVERSIONS = (
    *(f"InternVL2_5-{size}-MPO-hf" for size in ("2B", "8B")),
    *(f"InternVL3-{size}-hf" for size in ("1B", "2B", "8B", "9B", "14B", "38B", "78B")),
    *(f"InternVL3_5-{size}-HF" for size in ("1B", "2B", "4B", "8B", "14B", "38B", "30B-A3B", "241B-A28B")),
    "InternVL3_5-GPT-OSS-20B-A4B-Preview-HF",
)
FAMILY = ModelFamily(
    name="internvl_hf",
    native=("internvl",),
    models=tuple(
        ModelRecord(name=name.lower(), huggingface=f"OpenGVLab/{name}", verified=VERIFIED) for name in CONVERSIONS
    ),
    generation=ORIGINAL.generation,
)


@hookimpl
def register_models() -> Iterable[ModelFamily]:
    """The conversions."""
    return [FAMILY]
