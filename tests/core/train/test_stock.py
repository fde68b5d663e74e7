from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from vlcore.config import DataConfig
from vlcore.dataset import ReadOptions, Rows, open_rows
from vlcore.errors import DataError
from vlcore.model import Frontend
from vlcore.train.stock import explain_faults, group_faults, take_stock

OpenFrontend = Callable[[str], Frontend]


@pytest.fixture
def frontend(open_frontend: OpenFrontend) -> Frontend:
    return open_frontend("internvl2-2b")


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """A short row, one of three turns, one with a large picture, a broken one, and one without an answer."""
    Image.new("RGB", (1200, 800)).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    plain: list[dict[str, Any]] = [
        {"query": "Short?", "response": "Yes."},
        {"query": "Three?", "response": "Yes.", "history": [["One? " * 20, "Yes."], ["Two? " * 20, "Yes."]]},
        {"query": "Large?", "response": "Yes.", "images": ["large.png"]},
        {"query": "Broken?", "response": "Yes.", "images": ["broken.png"]},
        {"query": "Open?"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    return open_rows([str(tmp_path / "rows.jsonl")], ReadOptions(train=False))


def length(frontend: Frontend, rows: Rows, index: int) -> int:
    return len(frontend.encode(rows[index].messages, train=True))


def test_an_overflow_names_the_rows_and_what_is_enough(frontend: Frontend, rows: Rows) -> None:
    both = [length(frontend, rows, 1), length(frontend, rows, 2)]
    config = DataConfig(max_length=min(both) - 1, bad_rows="skip")
    expected = f"2 of 5 rows: .*rows.jsonl:2 with {both[0]}, .*rows.jsonl:3 with {both[1]}; --max_length {max(both)} is"
    with pytest.raises(DataError, match=expected):
        take_stock(frontend, rows, config)
    assert take_stock(frontend, rows, DataConfig(max_length=max(both), bad_rows="skip")).kept.tolist() == [0, 1, 2]


def test_only_the_first_of_many_long_rows_are_named(frontend: Frontend, rows: Rows) -> None:
    many = rows.select([1] * 30)
    with pytest.raises(DataError, match="30 of 30 rows.* and 20 more; ") as caught:
        take_stock(frontend, many, DataConfig(max_length=10))
    assert str(caught.value).count("rows.jsonl:2 with") == 10


def test_faults_end_the_run_unless_they_are_to_be_skipped(frontend: Frontend, rows: Rows) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:4: image .*broken\.png.*--bad_rows skip"):
        take_stock(frontend, rows, DataConfig())
    stock = take_stock(frontend, rows, DataConfig(bad_rows="skip"))
    assert stock.kept.tolist() == [0, 1, 2]
    assert [line.split(": ", 1)[0].rsplit(":", 1)[1] for line in stock.left_out] == ["4", "5"]
    assert stock.lengths.tolist() == [length(frontend, rows, index) for index in range(3)]


def test_a_row_without_an_answer_is_left_out_and_listed(frontend: Frontend, rows: Rows) -> None:
    stock = take_stock(frontend, rows.select([0, 4]), DataConfig())
    assert stock.kept.tolist() == [0]
    assert stock.left_out == (f"{rows.locate(4)}: conversation: it has no answer",)


def test_long_rows_are_dropped_and_listed(frontend: Frontend, rows: Rows) -> None:
    limit = length(frontend, rows, 0)
    stock = take_stock(frontend, rows.select([2, 0, 2, 1]), DataConfig(max_length=limit, on_overflow="drop"))
    assert stock.kept.tolist() == [1]
    assert stock.left_out[0] == (f"{rows.locate(2)}: conversation: it has {length(frontend, rows, 2)} tokens, "
                                 f"max_length is {limit}")
    assert len(stock.left_out) == 2


def test_long_rows_are_shrunk_once_and_listed(frontend: Frontend, rows: Rows) -> None:
    limit = length(frontend, rows, 2) - 1
    stock = take_stock(frontend, rows.select([2, 0, 2]), DataConfig(max_length=limit, on_overflow="shrink"))
    assert stock.steps.tolist()[0] == stock.steps.tolist()[2] > 0
    assert stock.lengths[0] == stock.lengths[2] <= limit
    assert stock.lengths.dtype == numpy.int32
    (line,) = stock.reduced
    assert line.startswith(f"{rows.locate(2)}: {limit + 1} tokens became {stock.lengths[0]}: max_num ")
    assert line.endswith(" tiles")


def test_long_rows_are_truncated_and_what_stays_too_long_is_a_fault(frontend: Frontend, rows: Rows) -> None:
    limit = length(frontend, rows, 0) + 30
    settings: dict[str, Any] = {"max_length": limit, "on_overflow": "truncate"}
    stock = take_stock(frontend, rows.select([0, 1]), DataConfig(**settings))
    assert stock.steps.tolist() == [0, 2]
    assert "2 oldest turns left out" in stock.reduced[0]
    with pytest.raises(DataError, match=r"rows\.jsonl:3: conversation: it has .* finds nothing to take away"):
        take_stock(frontend, rows.select([0, 1, 2]), DataConfig(**settings))
    stock = take_stock(frontend, rows.select([0, 1, 2]), DataConfig(**settings, bad_rows="skip"))
    assert stock.kept.tolist() == [0, 1]
    assert "finds nothing to take away" in stock.left_out[0]


def test_faults_of_one_kind_are_counted_and_the_first_named() -> None:
    missing = [DataError(f"/a.jsonl:{n}: images[0]", f"there is no file /p/{n}.png", "check it") for n in range(1, 8)]
    other = DataError("/a.jsonl:9: query", "it is missing", "give it")
    text = str(explain_faults([*missing, other], 20))
    assert text.startswith("8 of 20 rows: /a.jsonl:1: images[0]: there is no file /p/1.png (and 6 like it: "
                           "/a.jsonl:2, /a.jsonl:3, /a.jsonl:4, ...); /a.jsonl:9: query: it is missing; correct them")
    assert len(group_faults(["a:1: x: 3 of 4", "a:2: x: 5 of 6", "a:3: y: 5 of 6"])) == 2


def test_no_rows_are_no_fault(frontend: Frontend, rows: Rows) -> None:
    assert len(take_stock(frontend, rows[:0], DataConfig()).kept) == 0
