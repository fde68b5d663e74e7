from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vlcore.batch import Layout
from vlcore.config import DataConfig
from vlcore.dataset import Row, read_rows
from vlcore.errors import DataError, MediaError
from vlcore.messages import Image, Text, make_message
from vlcore.train.data import Examples, measure_rows, write_rows


def make_row(answer: str, line: int = 1) -> Row:
    question = make_message("user", [Image("/p/cat.png"), Text("What?")])
    return Row(source=Path("a.jsonl"), line=line, messages=(question, make_message("assistant", answer)))


def plan(messages: Any, **options: Any) -> Layout:
    if messages[-1].text == "broken":
        raise MediaError("image cat.png", "it is damaged", "repair it")
    ids = tuple(range(len(messages[-1].text)))
    return Layout(ids, ids if messages[-1].trained else (-100,) * len(ids), (), (), "")


FRONTEND: Any = SimpleNamespace(plan=plan, encode=plan)


def test_rows_that_cannot_be_trained_on_are_left_out_with_the_reason() -> None:
    silent = make_row("abc")
    answer = make_message("assistant", "x", trained=False)
    untrained = Row(source=silent.source, line=3, messages=(silent.messages[0], answer))
    unanswered = Row(source=silent.source, line=4, messages=silent.messages[:1])
    rows = [silent, make_row("abcdef", 2), untrained, unanswered]
    lengths, left_out = measure_rows(FRONTEND, rows, DataConfig(max_length=5))
    assert lengths == {0: 3}
    assert [(row.line, why) for row, why in left_out] == [
        (2, "6 tokens, max_length is 5"), (3, "no token counts in the loss"), (4, "it has no answer"),
    ]


def test_no_limit_keeps_long_rows() -> None:
    assert measure_rows(FRONTEND, [make_row("a" * 9999)], DataConfig(max_length=0))[0] == {0: 9999}


def test_a_fault_names_file_and_line() -> None:
    rows = [make_row("broken", 7)]
    with pytest.raises(DataError, match=r"a\.jsonl:7: image cat\.png"):
        measure_rows(FRONTEND, rows, DataConfig())
    with pytest.raises(DataError, match=r"a\.jsonl:7: image cat\.png"):
        Examples(FRONTEND, rows, "answers")[0]


def test_written_rows_are_read_again(tmp_path: Path) -> None:
    from PIL import Image as Picture

    Picture.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    question = make_message("user", [Image(str(tmp_path / "cat.png")), Text("What?")])
    row = Row(source=Path("a.jsonl"), line=1, messages=(question, make_message("assistant", "A cat.")))
    write_rows([row], tmp_path / "val.jsonl")
    (read,) = read_rows(str(tmp_path / "val.jsonl"))
    assert [m.text for m in read.messages] == ["What?", "A cat."]
    assert str(read.messages[0].media[0].source) == str(tmp_path / "cat.png")
