"""Sound rows in one form, the others beside."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlcore.doctor.check import Report, check_rows
from vlcore.doctor.fix import choose_target, write_fixed
from vlcore.doctor.settings import LookConfig, open_sources
from vlcore.errors import UsageError
from vlcore.model import Frontend

GOOD = {"query": "<image>What is it?", "response": "A cat.", "images": ["cat.png"]}
FORMS: list[dict[str, Any]] = [
    GOOD,
    {**GOOD, "query": "Untagged."},
    {"query": "<img>cat.png</img>Inline?", "response": "Yes.", "history": [["Hello", "Hm."]], "system": "Short."},
    {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}],
     "image": "cat.png"},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is <image>?"}]},
                  {"role": "assistant", "content": "A tag.", "loss": False},
                  {"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}]},
    {**GOOD, "query": "<image>Where is <ref-object>?", "response": "<bbox>",
     "objects": [{"caption": "cat", "bbox": [1, 2, 30, 20]}]},
]
BAD: list[Any] = ["{", {**GOOD, "images": ["gone.png"]}, {"query": "?", "extra": None}, [1]]


@pytest.fixture
def frontend(open_frontend: Callable[[str], Frontend]) -> Frontend:
    return open_frontend("internvl2-2b")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    Image.new("RGB", (60, 40)).save(tmp_path / "cat.png")

    def write_file(*rows: Any) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf8")
        return path

    return write_file


def fix(frontend: Frontend, source: Path, out: Path, overwrite: bool = False, **settings: Any) -> Report:
    config = LookConfig(dataset=(str(source),), **settings)
    rows = open_sources(config, frontend)
    target = choose_target(out, rows, overwrite)
    report = check_rows(rows, frontend, config)
    write_fixed(rows, report, target)
    return report


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def test_what_was_written_has_no_faults_and_the_same_tokens(frontend, write, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = fix(frontend, write(*FORMS, *BAD), tmp_path / "clean.jsonl")
    again = fix(frontend, tmp_path / "clean.jsonl", tmp_path / "elsewhere" / "clean.jsonl")
    assert first.total.sound == again.total.rows == again.total.sound == len(FORMS) and not again.faults
    assert again.total.tokens == first.total.tokens and again.total.lengths == first.total.lengths
    assert (tmp_path / "clean.jsonl").read_text() == (tmp_path / "elsewhere" / "clean.jsonl").read_text()


def test_faulty_records_are_kept_as_they_are_with_line_and_reasons(frontend, write, tmp_path) -> None:
    source = write(GOOD, *BAD)
    fix(frontend, source, tmp_path / "clean.jsonl")
    kept = read(tmp_path / "clean.faults.jsonl")
    assert [(row["source"], row["line"]) for row in kept] == [(str(source), line) for line in (2, 3, 4, 5)]
    assert kept[0]["text"] == "{" and kept[1]["record"] == BAD[1] and kept[3]["text"] == "[1]"
    assert kept[1]["reasons"] == [f"images[0]: there is no file {tmp_path}/gone.png"]


def test_a_long_row_counts_as_faulty_under_the_rule_error_alone(frontend, write, tmp_path) -> None:
    source = write({"query": "What?", "response": "long " * 50})
    fix(frontend, source, tmp_path / "kept.jsonl", max_length=40, on_overflow="drop")
    assert len(read(tmp_path / "kept.jsonl")) == 1 and not (tmp_path / "kept.faults.jsonl").exists()
    fix(frontend, source, tmp_path / "none.jsonl", max_length=40)
    assert not read(tmp_path / "none.jsonl") and len(read(tmp_path / "none.faults.jsonl")) == 1


def test_nothing_is_overwritten_unasked_and_old_faults_do_not_stay(frontend, write, tmp_path) -> None:
    source, out = write(GOOD, "{"), tmp_path / "clean.jsonl"
    fix(frontend, source, out)
    with pytest.raises(UsageError, match=r"clean\.jsonl is there already"):
        fix(frontend, source, out)
    out.unlink()
    with pytest.raises(UsageError, match=r"clean\.faults\.jsonl is there already"):
        fix(frontend, source, out)
    fix(frontend, write(GOOD), out, overwrite=True)
    assert len(read(out)) == 1 and not (tmp_path / "clean.faults.jsonl").exists()


@pytest.mark.parametrize(("name", "why"), [
    ("rows.jsonl", "is one of the files that are read"), ("clean.json", "written as jsonl"),
    ("no/clean.jsonl", "there is no folder"),
])
def test_names_that_cannot_be_written_are_refused_before_the_check(name, why, frontend, write, tmp_path) -> None:
    source = write(GOOD)
    before = source.read_text()
    with pytest.raises(UsageError, match=why):
        fix(frontend, source, tmp_path / name, overwrite=True)
    assert source.read_text() == before


def test_pictures_that_a_table_holds_become_files(frontend, tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40)).save(buffer, "PNG")
    rows = [{"query": "<image>What?", "response": "Black.", "image": {"bytes": raw, "path": None}}
            for raw in (buffer.getvalue(), buffer.getvalue(), b"no picture")]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    fix(frontend, tmp_path / "rows.parquet", tmp_path / "clean.jsonl")
    assert len(list((tmp_path / "clean.media").iterdir())) == 1
    again = LookConfig(dataset=(str(tmp_path / "clean.jsonl"),))
    assert check_rows(open_sources(again, frontend), frontend, again, decode=True).total.sound == 2
    assert read(tmp_path / "clean.faults.jsonl")[0]["record"]["image"] == ["10 bytes"]
