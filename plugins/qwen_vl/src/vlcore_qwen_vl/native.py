"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: models that transformers has, by their names. The core's defaults do the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from vlcore.boxes import Box, Grounding
from vlcore.family import ModelFamily, ModelRecord
from vlcore.hookspecs import hookimpl

#: What was compared, on tiny checkpoints of the same model types.
VERIFIED = "ids, pixels and logits equal to transformers' own on a tiny checkpoint of this model type"
QWEN2 = ("2B-Instruct", "7B-Instruct", "72B-Instruct", "2B", "7B", "72B")
QWEN2_5 = ("3B-Instruct", "7B-Instruct", "32B-Instruct", "72B-Instruct")
QWEN3 = tuple(
    f"{size}-{kind}" for size in ("2B", "4B", "8B", "32B", "30B-A3B", "235B-A22B") for kind in ("Instruct", "Thinking")
)
#: A thing in Qwen3-VL's answers: `{"bbox_2d": [100, 80, 620, 940], "label": "the cat"}`.
THING = re.compile(r"\{[^{}]*\}")


def make_record(release: str) -> ModelRecord:
    """The record of a release, which has one id on both hubs."""
    return ModelRecord(name=release.lower().replace(".", "_"), huggingface=f"Qwen/{release}", verified=VERIFIED)


def read_json_boxes(text: str) -> tuple[Box, ...]:
    """Boxes in JSON, in thousandths of width and height, as Qwen3-VL writes them; what is no JSON is left out.

    >>> read_json_boxes('[{"bbox_2d": [100, 200, 300, 400], "label": "a cup"}]')
    (Box(points=((0.1, 0.2), (0.3, 0.4)), label='a cup'),)
    """
    boxes = []
    for thing in THING.findall(text):
        try:
            found = json.loads(thing)
        except ValueError:
            continue
        numbers = found.get("bbox_2d")
        if isinstance(numbers, list) and [type(n) in (int, float) for n in numbers] == [True] * 4:
            left, top, right, bottom = (number / 1000 for number in numbers)
            boxes.append(Box(((left, top), (right, bottom)), str(found.get("label", ""))))
    return tuple(boxes)


def write_json_box(box: Box) -> str:
    """The numbers of a box in Qwen3-VL's JSON; of a quadrilateral, those of the box around it.

    >>> write_json_box(Box(((0.1, 0.25), (0.5, 1.0))))
    '[100, 250, 500, 1000]'
    """
    across, down = zip(*box.points, strict=True)
    corners = (min(across), min(down), max(across), max(down))
    return str([min(1000, max(0, int(part * 1000))) for part in corners])


#: Texts that stand for media. A video is taken as its frames.
TAGS = ("<image>", "<video>")
#: As generation_config.json has it, which samples from one token alone.
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.05}
FAMILIES = (
    ModelFamily(
        name="qwen2_vl",
        native=("qwen2_vl",),
        models=(
            *(make_record(f"Qwen2-VL-{size}") for size in QWEN2),
            ModelRecord(name="qvq-72b-preview", huggingface="Qwen/QVQ-72B-Preview", verified=VERIFIED),
        ),
        tags=TAGS,
        generation=GREEDY,
    ),
    ModelFamily(
        name="qwen2_5_vl",
        native=("qwen2_5_vl",),
        models=tuple(make_record(f"Qwen2.5-VL-{size}") for size in QWEN2_5),
        tags=TAGS,
        generation=GREEDY,
    ),
    ModelFamily(
        name="qwen3_vl",
        native=("qwen3_vl", "qwen3_vl_moe"),
        models=tuple(make_record(f"Qwen3-VL-{size}") for size in QWEN3),
        tags=TAGS,
        generation={"temperature": 0.7, "top_p": 0.8, "top_k": 20},
        grounding=Grounding(read=read_json_boxes, write_box=write_json_box, write_label=str),
    ),
)


@hookimpl
def register_models() -> Iterable[ModelFamily]:
    """The generations after the first."""
    return FAMILIES
