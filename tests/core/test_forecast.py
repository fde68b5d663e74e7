from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from vlcore import forecast, ledger
from vlcore.batch import IGNORED
from vlcore.dataset import ReadOptions, Rows, open_rows
from vlcore.forecast import Forecast, Unanswered, forecast_rows
from vlcore.model import Frontend

OpenFrontend = Callable[[str], Frontend]
WriteRows = Callable[..., Path]


@pytest.fixture
def frontend(open_frontend: OpenFrontend) -> Frontend:
    return open_frontend("internvl2-2b")


@pytest.fixture
def write(tmp_path: Path) -> WriteRows:
    """Writes rows to a file, with two pictures beside it."""
    Image.new("RGB", (60, 40)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")

    def write_file(*rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return write_file


@pytest.fixture
def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learnt of small files is kept as well."""
    monkeypatch.setattr(ledger, "WORTH_KEEPING", 1)
    monkeypatch.setattr(forecast, "WORTH_KEEPING", 1)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions that are planned from here on."""
    seen: list[str] = []
    plan = Frontend.plan

    def note(self: Frontend, messages: Any, **options: Any) -> Any:
        seen.append(messages[-2].text)
        return plan(self, messages, **options)

    monkeypatch.setattr(Frontend, "plan", note)
    return seen


def open_file(path: Path | str, train: bool = True) -> Rows:
    return open_rows([str(path)], ReadOptions(train=train))


def ask(text: str, *images: str, **more: Any) -> dict[str, Any]:
    return {"query": text, "response": "A cat.", **({"images": list(images)} if images else {}), **more}


def same(first: Forecast, second: Forecast) -> bool:
    names = ("text", "media", "trained", "images", "turns")
    return all(numpy.array_equal(getattr(first, name), getattr(second, name)) for name in names)


def test_counts_are_those_of_the_encoded_rows(frontend: Frontend, write: WriteRows) -> None:
    rows = open_file(write(ask("What?", "wide.png", "small.png"), ask("And?", history=[["Hello", "Hi"]])))
    found = forecast_rows(frontend, rows)
    for index, row in enumerate(rows):
        example = frontend.encode(row.messages, train=True)
        image = example.ids.count(frontend.media.image_token_id)
        assert (found.lengths[index], found.media[index]) == (len(example), image)
        assert found.trained[index] == sum(label != IGNORED for label in example.labels)
    assert found.images.tolist() == [2, 0]
    assert found.turns.tolist() == [1, 2]
    assert found.lengths.dtype == numpy.int32


def test_faults_are_collected_and_name_file_line_and_field(frontend: Frontend, write: WriteRows) -> None:
    path = write(ask("ok"), ask("gone", "gone.png"), {"query": "no answer"}, ask("broken", "broken.png"),
                 {"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b", "loss": False}]})
    (path.parent / "broken.png").write_bytes(b"no picture")
    found = forecast_rows(frontend, open_file(path, train=False))
    assert list(found.faults) == [1, 2, 3, 4]
    assert [str(fault).split(": ")[0] for fault in found.faults.values()] == [f"{path}:{n}" for n in (2, 3, 4, 5)]
    assert [fault.why.split(" /")[0] for fault in found.faults.values()] == [
        "there is no file", "it has no answer", "it is no image that Pillow can read", "no token counts in the loss"]
    assert isinstance(found.faults[2], Unanswered)
    assert found.lengths.tolist()[1:] == [0, 0, 0, 0]


def test_questions_alone_can_be_measured(frontend: Frontend, write: WriteRows) -> None:
    rows = open_file(write({"query": "no answer"}), train=False)
    found = forecast_rows(frontend, rows, train=False)
    assert not found.faults
    assert found.lengths.tolist() == [len(frontend.encode(rows[0].messages))]


def test_a_question_is_measured_without_the_answer_behind_it(frontend: Frontend, write: WriteRows) -> None:
    rows = open_file(write({"query": "the same"}, {"query": "the same", "response": "A long answer."}), train=False)
    found = forecast_rows(frontend, rows, train=False)
    assert not found.faults and found.lengths[0] == found.lengths[1] > 0


def test_a_row_that_is_there_twice_is_looked_at_once(
    frontend: Frontend, write: WriteRows, planned: list[str]
) -> None:
    rows = open_file(write(ask("One"), ask("Two, a longer one"), {"query": "Three"}))
    found = forecast_rows(frontend, rows.select([2, 1, 0, 1, 2]))
    assert planned == ["One", "Two, a longer one"]
    assert found.lengths[1] == found.lengths[3] > found.lengths[2]
    assert list(found.faults) == [0, 4]


def test_processes_change_nothing(frontend: Frontend, write: WriteRows) -> None:
    path = write(
        *(ask(f"Question {n}" * (n % 7), "wide.png") if n % 5 else {"query": "x", "id": n} for n in range(600))
    )
    one, two = (forecast_rows(frontend, open_file(path), processes=processes) for processes in (0, 2))
    assert same(one, two)
    assert [str(fault) for fault in one.faults.values()] == [str(fault) for fault in two.faults.values()]
    assert list(one.faults) == list(two.faults)
    assert one.tally.write() == two.tally.write()


def test_keys_and_placements_are_counted(frontend: Frontend, write: WriteRows) -> None:
    path = write(ask("What?", "wide.png", id=1), ask("<image>What?", "wide.png", id=2, width=3), ask("What?"))
    tally = forecast_rows(frontend, open_file(path).select([0, 1, 2, 2])).tally
    (line,) = tally.describe_unread()
    assert line == f"{path}, 4 rows: keys that are not read: id in 2, width in 1"
    assert tally.describe_placement().startswith("media without tags, 1 of 4 rows")


@pytest.mark.usefixtures("keep_all")
def test_what_was_learnt_is_kept(frontend: Frontend, write: WriteRows, planned: list[str]) -> None:
    path = write(ask("One", id=1), ask("Two", "wide.png"), ask("Three", width=2))
    first = forecast_rows(frontend, open_file(path))
    planned.clear()
    second = forecast_rows(frontend, open_file(path))
    assert planned == []
    assert same(first, second)
    assert first.tally.write() == second.tally.write()
    assert [kept.suffix for kept in (path.parent / ".vlcore").iterdir()] == [".npz"]


@pytest.mark.usefixtures("keep_all")
def test_a_sample_fills_what_is_kept(frontend: Frontend, write: WriteRows, planned: list[str]) -> None:
    path = write(*(ask(f"Question {number}", **{f"key{number}": 1}) for number in range(6)))
    forecast_rows(frontend, open_file(path).select([1, 3]))
    whole = forecast_rows(frontend, open_file(path))
    assert sorted(planned) == [f"Question {number}" for number in range(6)]
    assert len(whole.tally.unread[str(path)]) == 6
    planned.clear()
    assert same(forecast_rows(frontend, open_file(path)), whole)
    assert planned == []


@pytest.mark.usefixtures("keep_all")
def test_faults_are_looked_at_again(frontend: Frontend, write: WriteRows) -> None:
    path = write(ask("One"), ask("Two", "late.png"))
    assert list(forecast_rows(frontend, open_file(path)).faults) == [1]
    Image.new("RGB", (20, 20)).save(path.parent / "late.png")
    assert not forecast_rows(frontend, open_file(path)).faults
    (path.parent / "late.png").unlink()
    assert list(forecast_rows(frontend, open_file(path)).faults) == [1]


@pytest.mark.usefixtures("keep_all")
def test_a_changed_picture_is_measured_again(frontend: Frontend, write: WriteRows) -> None:
    path = write(ask("One", "small.png"), ask("Two", "wide.png"))
    before = forecast_rows(frontend, open_file(path)).lengths
    picture = path.parent / "small.png"
    Image.new("RGB", (400, 100)).save(picture)
    os.utime(picture, ns=(1, 1))
    after = forecast_rows(frontend, open_file(path)).lengths
    assert after[0] > before[0]
    assert after[1] == before[1]


@pytest.mark.usefixtures("keep_all")
@pytest.mark.parametrize("change", ["content", "options", "loss", "system"])
def test_nothing_is_kept_for_another_content_model_or_loss(
    frontend: Frontend, write: WriteRows, planned: list[str], change: str
) -> None:
    path = write(ask("One", "wide.png"))
    forecast_rows(frontend, open_file(path))
    planned.clear()
    if change == "content":
        path = write(ask("One", "wide.png", id=1))
    other = replace(frontend, options={"max_num": 1}) if change == "options" else frontend
    rows = open_rows([str(path)], ReadOptions(system="Be short." if change == "system" else ""))
    forecast_rows(other, rows, loss_on="release" if change == "loss" else "answers")
    assert planned == ["One"]


def test_small_files_leave_nothing_behind(frontend: Frontend, write: WriteRows) -> None:
    path = write(ask("One"))
    forecast_rows(frontend, open_file(path))
    assert not (path.parent / ".vlcore").exists()


def test_short_texts_are_tokenized_once_and_alike(frontend: Frontend) -> None:
    memory = forecast.Memory(frontend.tokenizer)
    texts = ["What is this?", "What is this?", "long " * 300]
    assert [memory.encode(text) for text in texts] == [frontend.tokenizer.encode(text) for text in texts]
    memory.encode(texts[0]).append(0)
    assert memory.encode(texts[0]) == frontend.tokenizer.encode(texts[0])
    assert memory.pad_id == frontend.tokenizer.pad_id


def test_rows_of_no_source_are_fine(frontend: Frontend) -> None:
    found = forecast_rows(frontend, Rows((), (), ()))
    assert len(found.lengths) == 0
    assert not found.faults
