"""The family's records: names, hub ids, how a checkpoint is recognised, where its weights are."""

from __future__ import annotations

import re
from pathlib import Path

from vlcore.errors import CheckpointError
from vlcore.family import ConfigJson, FamilyOption, ModelFamily, ModelRecord, Parts, WeightFolder

#: Projectors with LayerNorms, which Yi-VL has and LLaVA has not.
PROJECTOR = re.compile(r"mlp(\d+)x_gelu_Norm")
#: What each size was held against, on a tiny checkpoint of its layout.
VERIFIED = {
    "6B": "parity with the release on a tiny checkpoint of this layout",
    "34B": "equal to transformers' Llama and CLIP on a tiny checkpoint of this layout (.bin files)",
}
#: The copy of the vision tower in the main files is older than the one in `vit/`, and the release does not read
#: it; buffers of old transformers are computed now.
UNREAD = (r"^model\.vision_tower\.", r"\.rotary_emb\.inv_freq$")
#: What a whole CLIP model has besides its vision tower, and a buffer of old transformers.
UNREAD_VISION = (r"^(?!vision_model\.)", r"\.position_ids$")


def recognise(config: ConfigJson, folder: Path) -> bool:
    """Whether a checkpoint is a Yi-VL release: LLaVA's model type, with LayerNorms in the projector.

    transformers' own Llava shares the model type but keeps its parts in `text_config` and `vision_config`.
    """
    return is_original(config) and bool(PROJECTOR.fullmatch(str(config.get("mm_projector_type"))))


def is_original(config: ConfigJson) -> bool:
    """Whether a configuration is of LLaVA's own code rather than of transformers'."""
    return config.get("model_type") == "llava" and "text_config" not in config


def reject(config: ConfigJson, folder: Path) -> str | None:
    """Why a checkpoint that looks like Yi-VL is not one that can be loaded."""
    if config.get("is_yi_vl_derived_model"):
        return "it is a conversion of Yi-VL to another layout; take the original, 01-ai/Yi-VL-6B or 01-ai/Yi-VL-34B"
    if is_original(config):
        found = config.get("mm_projector_type") or "not named"
        return f"it is an original LLaVA, not Yi-VL (its projector is {found}, Yi-VL's is mlp2x_gelu_Norm)"
    return None


def find_vision(config: ConfigJson, folder: Path) -> Path:
    """The folder of the vision tower: as `mm_vision_tower` says, else the only one below `vit/`.

    Older revisions were to be edited to hold an absolute path, which may be another machine's by now.

    Raises:
        CheckpointError: when there is none.
    """
    named = folder / str(config.get("mm_vision_tower") or "vit")
    if (named / "config.json").is_file():
        return named
    found = sorted(path.parent for path in folder.glob("vit/*/config.json"))
    if len(found) == 1:
        return found[0]
    why = f"its vision tower is not in {named}, and {len(found)} folders below vit/ may hold it"
    raise CheckpointError(f"checkpoint {folder}", why, "copy the release's vit folder, or give --vision_tower FOLDER")


def list_weights(config: ConfigJson, folder: Path) -> tuple[WeightFolder, ...]:
    """The folders with weights: the release's own, and the vision tower's."""
    vision = find_vision(config, folder)
    within = vision.resolve().is_relative_to(folder.resolve())
    inside = vision.resolve().relative_to(folder.resolve()).as_posix() if within else f"vit/{vision.resolve().name}"
    return (
        WeightFolder(path=folder, unread=UNREAD),
        WeightFolder(path=vision, inside=inside, unread=UNREAD_VISION),
    )


FAMILY = ModelFamily(
    name="yi_vl",
    models=tuple(
        ModelRecord(
            name=f"yi-vl-{size}-chat".lower(),
            huggingface=f"01-ai/Yi-VL-{size}",
            modelscope=f"01ai/Yi-VL-{size}",
            verified=verified,
        )
        for size, verified in VERIFIED.items()
    ),
    recognise=recognise,
    reject=reject,
    parts=Parts(
        language=("model.language_model", "lm_head"),
        vision=("model.vision_tower",),
        projector=("model.multi_modal_projector",),
    ),
    options=(
        FamilyOption(
            name="image_aspect_ratio", kind=str,
            help="pad: pad pictures to a square; anything else: cut out their middle; config.json's when unset.",
        ),
    ),
    ask="turn",
    place="turns",
    tags=("<image_placeholder>", "<image>"),
    generation={"temperature": 0.0, "max_new_tokens": 1024},
    question={"temperature": 0.2},
    weight_folders=list_weights,
    vision_key="mm_vision_tower",
)
