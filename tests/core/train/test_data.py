from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from torch.utils.data import DataLoader
from vlcore.batch import IGNORED
from vlcore.config import DataConfig
from vlcore.dataset import ReadOptions, Rows, open_rows, read_rows
from vlcore.errors import DataError
from vlcore.model import Frontend
from vlcore.spread import keep
from vlcore.train.data import Examples, add_line, count_lines, load_data, recover_fault, write_rows

OpenFrontend = Callable[[str], Frontend]


@pytest.fixture
def frontend(open_frontend: OpenFrontend) -> Frontend:
    return open_frontend("internvl2-2b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Rows of which each has a picture, a larger one each time."""
    rows = []
    for number in range(1, 5):
        Image.new("RGB", (448 * number, 448)).save(tmp_path / f"{number}.png")
        rows.append({"query": f"Which is {number}?", "response": "This.", "images": [f"{number}.png"]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def make_examples(frontend: Frontend, config: DataConfig) -> Examples:
    data = load_data(frontend, config)
    return Examples(frontend, data.train, config, lengths=data.lengths, steps=data.steps)


def damage(path: Path) -> None:
    """Cuts a picture short behind its header."""
    path.write_bytes(path.read_bytes()[:60])


def test_lengths_are_those_of_the_examples(frontend: Frontend, path: Path) -> None:
    config = DataConfig(dataset=(str(path),), dataset_test_ratio=0.25, max_length=0)
    data = load_data(frontend, config)
    examples = make_examples(frontend, config)
    assert (len(data.train), len(data.validation)) == (3, 1)
    assert data.lengths is not None
    assert data.lengths.tolist() == [len(examples[index]) for index in range(3)]
    assert "3 rows to train on" in data.summary


@pytest.mark.parametrize("forecast", [True, False])
def test_shrunk_rows_are_shrunk_alike_whenever_they_are_judged(frontend: Frontend, path: Path, forecast: bool) -> None:
    lengths = load_data(frontend, DataConfig(dataset=(str(path),), dataset_test_ratio=0, max_length=0)).lengths
    assert lengths is not None
    limit = int(lengths.max()) - 1
    config = DataConfig(dataset=(str(path),), dataset_test_ratio=0, max_length=limit, on_overflow="shrink",
                        forecast=forecast)
    found = [len(example) for example in map(make_examples(frontend, config).__getitem__, range(4))]
    known = load_data(frontend, DataConfig(**{**vars(config), "forecast": True}))
    assert known.lengths is not None
    assert found == known.lengths.tolist()
    assert known.steps is not None
    assert known.steps.max() > 0
    assert max(found) <= limit


def test_a_changed_picture_is_noticed(frontend: Frontend, path: Path) -> None:
    examples = make_examples(frontend, DataConfig(dataset=(str(path),), dataset_test_ratio=0, max_length=0))
    Image.new("RGB", (448 * 6, 448)).save(path.parent / "1.png")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: media: they have changed since lengths were taken \("):
        examples[0]
    assert len(examples[1])


def test_a_damaged_row_is_named_or_becomes_an_empty_example(frontend: Frontend, path: Path, tmp_path: Path) -> None:
    config = DataConfig(dataset=(str(path),), dataset_test_ratio=0, max_length=0)
    data = load_data(frontend, config)
    damage(tmp_path / "2.png")
    (tmp_path / "3.png").unlink()
    strict = Examples(frontend, data.train, config, lengths=data.lengths, steps=data.steps)
    for index in (1, 2):
        with pytest.raises(DataError, match=rf"^{path}:{index + 1}: image"):
            strict[index]
    skipped = tmp_path / "skipped.txt"
    skipping = Examples(frontend, data.train, DataConfig(**{**vars(config), "bad_rows": "skip"}),
                        lengths=data.lengths, steps=data.steps, skipped=skipped)
    empty = skipping[1]
    assert (len(empty), empty.labels, dict(empty.pixels)) == (1, (IGNORED,), {})
    assert len(skipping[2]) == len(skipping[1])
    assert [line.split(": ")[0] for line in skipped.read_text().splitlines()] == [f"{path}:{n}" for n in (2, 3, 2)]
    assert count_lines(skipped) == 2
    assert skipping[0].ids == strict[0].ids


def test_a_worker_says_which_row_is_damaged(frontend: Frontend, path: Path, tmp_path: Path) -> None:
    examples = make_examples(frontend, DataConfig(dataset=(str(path),), dataset_test_ratio=0, max_length=0))
    damage(tmp_path / "1.png")
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(DataLoader(examples, num_workers=1, collate_fn=keep))
    fault = recover_fault(caught.value)
    assert fault is not None
    with pytest.raises(DataError) as direct:
        examples[0]
    assert (fault.given, fault.why, fault.do) == (direct.value.given, direct.value.why, direct.value.do)
    assert recover_fault(RuntimeError("something else: it is; do")) is None


@pytest.mark.parametrize(("on_overflow", "bad_rows", "skips"), [
    ("error", "skip", False), ("drop", "error", True), ("shrink", "error", False), ("truncate", "skip", True),
])
def test_without_a_forecast_long_rows_are_judged_when_they_come(
    frontend: Frontend, path: Path, on_overflow: Any, bad_rows: Any, skips: bool
) -> None:
    config = DataConfig(dataset=(str(path),), max_length=20, on_overflow=on_overflow, bad_rows=bad_rows, forecast=False)
    data = load_data(frontend, config)
    assert "each is judged when it comes" in data.summary
    examples = Examples(frontend, data.train, config)
    if skips:
        assert len(examples[0]) == 1
    else:
        with pytest.raises(DataError, match=r"rows\.jsonl:\d: conversation: it has \d+ tokens"):
            examples[0]


def test_without_a_forecast_rows_without_answer_or_loss_are_no_examples(frontend: Frontend, path: Path) -> None:
    silent = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": False}]
    path.write_text(json.dumps({"query": "Open?"}) + "\n" + json.dumps({"messages": silent}) + "\n")
    rows = open_rows([str(path)], ReadOptions(train=False))
    examples = Examples(frontend, rows, DataConfig(forecast=False))
    assert len(examples[0]) == 1
    with pytest.raises(DataError, match=r"rows\.jsonl:2: conversation: no token counts in the loss"):
        examples[1]


def test_validation_rows_without_an_answer_are_left_out(frontend: Frontend, path: Path, tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"query": "Open?"}\n{"query": "What?", "response": "That."}\n')
    config = DataConfig(dataset=(str(path),), val_dataset=(str(tmp_path / "val.jsonl"),), max_length=0)
    data = load_data(frontend, config)
    assert data.left_out == (f"{tmp_path / 'val.jsonl'}:1: conversation: it has no answer",)
    write_rows(data.validation, tmp_path / "kept.jsonl")
    assert len(read_rows(str(tmp_path / "kept.jsonl"))) == 1
    rows = open_rows([str(tmp_path / "val.jsonl")], ReadOptions(train=False))
    write_rows(rows, tmp_path / "same.jsonl")
    assert (tmp_path / "same.jsonl").read_bytes() == (tmp_path / "kept.jsonl").read_bytes()


def test_no_row_left_is_an_error(frontend: Frontend, path: Path) -> None:
    with pytest.raises(DataError, match="no row is left to train on; the first: .*max_length is 5"):
        load_data(frontend, DataConfig(dataset=(str(path),), max_length=5, on_overflow="drop"))


def test_written_rows_are_read_again(path: Path, tmp_path: Path) -> None:
    rows = open_rows([str(path)])
    write_rows(rows, tmp_path / "val.jsonl")
    assert [row.messages for row in read_rows(str(tmp_path / "val.jsonl"))] == [row.messages for row in rows]
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl:1: images"):
        write_rows(rows, tmp_path / "val.jsonl")
    write_rows(rows, tmp_path / "val.jsonl", skip=True)
    assert len(read_rows(str(tmp_path / "val.jsonl"))) == 3


def test_lines_of_several_processes_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "skipped.txt"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=add_lines, args=(path, letter)) for letter in "ab"]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert sorted(path.read_text().splitlines()) == ["a" * 300] * 50 + ["b" * 300] * 50
    assert count_lines(path) == 2
    assert count_lines(tmp_path / "none.txt") == 0


def add_lines(path: Path, letter: str) -> None:
    for _ in range(50):
        add_line(path, letter * 300)


def test_a_million_rows_are_a_few_arrays(frontend: Frontend, path: Path) -> None:
    source = open_rows([str(path)]).sources
    rows = Rows(source, numpy.zeros(1_000_000), numpy.zeros(1_000_000))
    lengths, steps = numpy.zeros(1_000_000, numpy.int32), numpy.zeros(1_000_000, numpy.uint16)
    examples = Examples(frontend, rows, DataConfig(), lengths=lengths, steps=steps)
    assert len(pickle.dumps(examples)) < 20_000_000
