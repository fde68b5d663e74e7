"""Objects of a row at their tags."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage
from vlcore.boxes import Box, Grounding, read_marks
from vlcore.dataset import Position, ReadOptions, Row, read_row, read_rows
from vlcore.errors import DataError

THOUSANDTHS = [100, 200, 300, 400]


def write_box(box: Box) -> str:
    return str([int(part * 1000) for point in box.points for part in point])


OPTIONS = ReadOptions(
    check_media=False, grounding=Grounding(read=read_marks, write_box=write_box, write_label="({})".format)
)


def read(options: ReadOptions = OPTIONS, folder: Path = Path(), **data: Any) -> Row:
    return read_row(data, Position(source=folder / "rows.jsonl", line=1), options)


def thing(caption: str = "cat", bbox: Any = THOUSANDTHS, **more: Any) -> dict[str, Any]:
    return {"caption": caption, "bbox": bbox, "bbox_type": "norm_1000"} | more


def fault(**data: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        read(**data)
    return caught.value


def test_names_and_boxes_take_the_objects_in_order_through_the_row() -> None:
    second = thing("dog", [0.5, 0.5, 1, 1], bbox_type="norm_1")
    row = read(query="Find <ref-object>, <ref-object>.", response="<bbox> and <bbox>", objects=[thing(), second])
    assert [message.text for message in row.messages] == [
        "Find (cat), (dog).", "[100, 200, 300, 400] and [500, 500, 1000, 1000]"]


def test_objects_may_be_a_text_in_json_and_one_may_have_several_boxes() -> None:
    twice = thing(bbox=[THOUSANDTHS, [0, 0, 1, 1]])
    row = read(query="Find <ref-object>", response="<bbox>", objects=json.dumps([twice]))
    assert row.messages[1].text == "[100, 200, 300, 400][0, 0, 1, 1]"


def test_conversations_and_messages_have_objects_too() -> None:
    turns = [("user", "Find <ref-object>"), ("assistant", "<bbox>")]
    talks = {"conversations": [{"from": who, "value": text} for who, text in turns],
             "messages": [{"role": who, "content": text} for who, text in turns]}
    for form, value in talks.items():
        assert read(**{form: value}, objects=[thing()]).messages[1].text == "[100, 200, 300, 400]"


def test_pixels_are_counted_in_the_picture_that_the_object_names(tmp_path: Path) -> None:
    for name, size in (("a.png", (1000, 1000)), ("b.png", (200, 50))):
        PilImage.new("RGB", size).save(tmp_path / name)
    real = {"caption": "cat", "bbox": [20, 5, 100, 50], "image": 1}
    row = read(folder=tmp_path, query="<image><image><bbox>?", response="x", images=["a.png", "b.png"], objects=[real])
    assert row.messages[0].text.endswith("[100, 100, 500, 1000]?")


def test_rows_without_tags_leave_their_objects_alone() -> None:
    assert read(query="a", response="b", objects=[{"any": "thing"}]).messages[0].text == "a"


@pytest.mark.parametrize("objects, field", [
    ([thing(), thing()], "objects"), ("[", "objects"), ({}, "query"), ([7], "objects[0]"),
    ([thing(bbox=[1, 2, 3])], "objects[0].bbox"), ([thing(bbox=[1, 2, 3, 4000])], "objects[0].bbox"),
    ([thing(bbox="1,2,3,4")], "objects[0].bbox"), ([thing(bbox_type="norm")], "objects[0].bbox_type"),
    ([thing(bbox=[])], "objects[0]"), ([thing(bbox=[1, 2, 3, 4], bbox_type="real", image=2)], "objects[0].image"),
    ([thing(bbox_type="real")], "objects[0].image"), ([thing(bbox_type="real", image=True)], "objects[0].image"),
    ([thing(bbox=[300, 200, 100, 400])], "objects[0].bbox"), ([thing(bbox=[100, 400, 300, 200])], "objects[0].bbox"),
    ([thing(bbox=[-1, 2, 3, 4])], "objects[0].bbox"), ([thing(bbox=[1, 2, 3, math.nan])], "objects[0].bbox"),
    ([thing(bbox=[1, 2, 3, math.inf])], "objects[0].bbox"), ([thing(bbox=[1, 2, 3, 10**400])], "objects[0].bbox"),
    ([thing(bbox=[0, 0, True, 1])], "objects[0].bbox"), ([thing(bbox=[None, 0, 1, 1])], "objects[0].bbox"),
    ([thing(bbox=[[1, 2, 3, 4], 5])], "objects[0].bbox"), ([thing(caption=3)], "objects[0].caption"),
    ([thing(bbox_type=["real"])], "objects[0].bbox_type"), ("[" * 5000, "objects"), ("[" + "1" * 5000 + "]", "objects"),
    ('[{"caption": "\\ud800"}]', "objects"),
])
def test_faults_name_the_object_and_what_is_wrong(objects: Any, field: str) -> None:
    found = fault(query="Find <bbox>", response="x", images=["missing.png"], objects=objects)
    assert found.given == f"rows.jsonl:1: {field}" and found.why and found.do


def test_a_name_without_a_caption_is_a_fault() -> None:
    assert fault(query="<ref-object>", response="x", objects=[{"bbox": []}]).given.endswith("objects[0]")


def test_fields_of_an_object_that_are_null_count_as_absent() -> None:
    cat = {"caption": "cat", "bbox": None, "bbox_type": None, "image": None}
    assert read(query="<ref-object>", response="x", objects=[cat]).messages[0].text == "(cat)"


def test_a_box_may_be_a_line_or_a_point() -> None:
    row = read(query="<bbox>", response="x", objects=[thing(bbox=[5, 5, 5, 5])])
    assert row.messages[0].text == "[5, 5, 5, 5]"


def test_models_without_marks_refuse_the_tags() -> None:
    with pytest.raises(DataError, match="no marks for <bbox>"):
        read(ReadOptions(), query="<bbox>", response="x", objects=[thing()])


def test_objects_without_tags_are_named_as_not_read(tmp_path: Path) -> None:
    objects = [{"caption": "a cat", "bbox": [1, 2, 3, 4], "bbox_type": "norm_1000"}]
    lines = [{"query": "What?", "response": "A cat.", "objects": objects}, {"query": "What?", "response": "A cat."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows(str(tmp_path / "rows.jsonl"))
    assert [list(row.unread) for row in rows] == [["objects"], []]
