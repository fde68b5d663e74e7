"""`vlcore infer --draw_boxes`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from vlcore.boxes import Grounding, read_marks
from vlcore.cli.infer import make_drawer
from vlcore.config import InferConfig
from vlcore.errors import UsageError
from vlcore.messages import make_message, user

GROUNDING = Grounding(read=read_marks, write_box=str, write_label=str)


def make_model(make_family: Any, grounding: Grounding | None = GROUNDING) -> Any:
    return SimpleNamespace(checkpoint=SimpleNamespace(family=make_family(grounding=grounding)))


def test_each_answer_with_boxes_gets_a_file(make_family, tmp_path: Path, capsys) -> None:
    draw = make_drawer(make_model(make_family), str(tmp_path / "out.png"))
    boxed = [user("Where?", [Image.new("RGB", (40, 30))]), make_message("assistant", "<box>(1,2),(300,400)</box>")]
    assert draw(boxed) and draw(boxed)
    assert not draw([*boxed[:1], make_message("assistant", "There.")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-2.png", "out.png"]
    assert "out-2.png" in capsys.readouterr().out


def test_without_a_file_nothing_is_drawn_and_nothing_missed(make_family) -> None:
    assert make_drawer(make_model(make_family, None), "")([])


def test_families_without_boxes_and_names_of_no_picture_are_refused(make_family) -> None:
    with pytest.raises(UsageError, match="write no boxes"):
        make_drawer(make_model(make_family, None), "out.png")
    with pytest.raises(UsageError, match=r"out\.txt"):
        make_drawer(make_model(make_family), "out.txt")


def test_answers_to_a_data_set_are_not_drawn() -> None:
    with pytest.raises(UsageError, match="draw_boxes"):
        InferConfig(model="x", val_dataset=("rows.jsonl",), draw_boxes="out.png")
