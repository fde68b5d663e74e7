"""COCO 2014 captions as the core registers them: one picture, one caption, the question the documents train with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlcore.family import DatasetRecord

_QUERY = "please describe the image."


def name_picture(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Row to row, the picture named in the text as Qwen-VL users write it: `Picture 1:`, the picture, a new line."""
    return {"query": f"Picture 1:<image>\n{_QUERY}", **_describe(row)}


def put_beside(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Row to row, the picture beside the text, so that the model's family says where it stands."""
    return {"query": _QUERY, **_describe(row)}


def _describe(row: Mapping[str, Any]) -> dict[str, Any]:
    # Several captions are joined; the first counts.
    return {"response": row["caption"].split("&&")[0], "images": row["image"]}


def _make_record(name: str, split: str, help: str) -> DatasetRecord:
    convert = put_beside if "-2" in name else name_picture
    return DatasetRecord(name=name, modelscope="modelscope/coco_2014_caption", subset="coco_2014_caption",
                         split=split, help=help, convert=convert)


#: `-2` has the picture beside the text, the others in it; `-mini` is the validation split alone.
DATASETS = (
    _make_record("coco-en", "train+validation", "COCO 2014 captions, the picture in the text"),
    _make_record("coco-en-mini", "validation", "COCO 2014 captions of the validation split, the picture in the text"),
    _make_record("coco-en-2", "train+validation", "COCO 2014 captions, the picture beside the text"),
    _make_record("coco-en-2-mini", "validation",
                 "COCO 2014 captions of the validation split, the picture beside the text"),
)
