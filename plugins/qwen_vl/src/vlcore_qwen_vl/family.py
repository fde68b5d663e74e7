"""The family's records: names, hub ids, how a checkpoint is recognised, options."""

from __future__ import annotations

import re
from pathlib import Path

from vlcore.boxes import Box, Grounding, read_marks
from vlcore.family import ConfigJson, FamilyOption, ModelFamily, ModelRecord, Parts, WeightFolder
from vlcore.shards import read_places

#: What was compared, on tiny checkpoints of the same layouts.
VERIFIED = "parity with the release on a tiny checkpoint of this layout"

#: Buffers that old dumps carry, which the release's code makes itself.
UNREAD = (r"\.rotary_emb\.inv_freq$", r"\.attn\.masked_bias$")


def recognise(config: ConfigJson, folder: Path) -> bool:
    """Whether a checkpoint is Qwen-VL: Qwen and Qwen-Audio share its model type, only Qwen-VL has `visual`."""
    return config.get("model_type") == "qwen" and "image_start_id" in (config.get("visual") or {})


def reject(config: ConfigJson, folder: Path) -> str | None:
    """Why a checkpoint of Qwen-VL's model type cannot be loaded."""
    if config.get("model_type") != "qwen":
        return None
    return "its config.json has no visual part with an image_start_id: it is Qwen or Qwen-Audio, not Qwen-VL"


def find_weights(config: ConfigJson, folder: Path) -> tuple[WeightFolder, ...]:
    """The release's folder, and what in it is not read."""
    names = read_places(folder)
    unread = tuple(pattern for pattern in UNREAD if any(re.search(pattern, name) for name in names))
    return (WeightFolder(path=folder, unread=unread),)


def write_box(box: Box) -> str:
    """A box or quadrilateral in the release's marks: whole thousandths from 0 to 999, the rest cut off.

    >>> write_box(Box(((0.1, 0.25), (0.5, 1.0))))
    '<box>(100,250),(500,999)</box>'
    """
    mark = "box" if len(box.points) == 2 else "quad"
    corners = (",".join(str(min(999, max(0, int(part * 1000)))) for part in point) for point in box.points)
    return f"<{mark}>{','.join(f'({corner})' for corner in corners)}</{mark}>"


FAMILY = ModelFamily(
    name="qwen_vl",
    models=(
        ModelRecord(name="qwen-vl", huggingface="Qwen/Qwen-VL", verified=VERIFIED),
        ModelRecord(name="qwen-vl-chat", huggingface="Qwen/Qwen-VL-Chat", verified=VERIFIED),
        ModelRecord(
            name="qwen-vl-chat-int4", huggingface="Qwen/Qwen-VL-Chat-Int4",
            verified="through gptqmodel on a tiny GPTQ checkpoint: as its weights unpacked",
        ),
    ),
    recognise=recognise,
    reject=reject,
    parts=Parts(
        language=("model.language_model", "lm_head"),
        vision=("model.vision_tower",),
        projector=("model.resampler",),
    ),
    # The parts of the release's fused c_attn, which is what its users adapt by default.
    attention=("q_proj", "k_proj", "v_proj"),
    options=(
        FamilyOption(
            name="picture_numbering", kind=str, default="turn",
            help="How pictures without a tag are numbered: through each 'turn', through the 'conversation', or 'none'.",
        ),
        FamilyOption(
            name="max_window_size", kind=int,
            help="Tokens of system text and history; older turns are left out. generation_config.json's when unset.",
        ),
    ),
    weight_folders=find_weights,
    grounding=Grounding(read=read_marks, write_box=write_box, write_label="<ref>{}</ref>".format),
    generation={"temperature": 1.0, "top_p": 0.3, "top_k": 0, "max_new_tokens": 512},
)
