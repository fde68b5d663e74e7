"""DeepSeek-VL converted to transformers' layout, by its names. The core's defaults do the rest."""

from __future__ import annotations

from collections.abc import Iterable

from vlcore.family import ModelFamily, ModelRecord
from vlcore.hookspecs import hookimpl

from vlcore_deepseek_vl.family import FAMILY as ORIGINAL

VERIFIED = "ids, pixels and logits equal to transformers' own on a tiny checkpoint of this model type"


def make_record(size: str, kind: str) -> ModelRecord:
    """The record of one conversion; only Hugging Face has it under this id."""
    return ModelRecord(
        name=f"deepseek-vl-{size}-{kind}-hf".replace(".", "_"),
        huggingface=f"deepseek-community/deepseek-vl-{size}-{kind}",
        verified=VERIFIED,
    )


FAMILY = ModelFamily(
    name="deepseek_vl_hf",
    native=("deepseek_vl", "deepseek_vl_hybrid"),
    models=tuple(make_record(size, kind) for size in ("1.3b", "7b") for kind in ("chat", "base")),
    tags=("<image>", "<video>"),
    generation=ORIGINAL.generation,
    sampling=ORIGINAL.sampling,
    penalised=ORIGINAL.penalised,
    question=ORIGINAL.question,
)


@hookimpl
def register_models() -> Iterable[ModelFamily]:
    """The conversions, both sizes."""
    return [FAMILY]
