"""`vlcore data check` and `vlcore data show`, as typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlcore.cli import main
from vlcore_internvl.tiny import write_tiny

ROWS = [
    {"query": "<image>What?", "response": "Red.", "images": ["a.png"]},
    {"query": "<image>What?", "response": "Red.", "images": ["gone.png"]},
]
BOXED = {"query": "Where?", "response": "<ref-object><bbox>", "images": ["a.png"],
         "objects": [{"caption": "it", "bbox": [2, 2, 20, 20]}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without its weights."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny(folder, tile=56, width=64, layers=1)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*ROWS, BOXED)), "utf8")
    return path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, str, str]]:
    """Runs `vlcore data`: its exit code, and what stands on standard output and standard error."""

    def run(*words: object) -> tuple[Any, str, str]:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, words)])
        return ended.value.code, *capsys.readouterr()

    return run


def test_a_check_prints_faults_and_counts_and_fails(run, rows, model) -> None:
    code, out, _ = run("check", rows, "--model", model)
    assert code == 5
    assert f"{rows}: 3 rows (1 with faults), 2 turns, 2 images" in out and f"{rows}:2: images[0]: " in out
    assert out.splitlines()[-2:] == [
        "1 of 3 rows cannot be trained on", "to write the sound rows to a file of their own: --fix NAME.jsonl"]


def test_a_check_of_sound_rows_ends_well(run, rows, model) -> None:
    rows.write_text(json.dumps(ROWS[0]))
    code, out, _ = run("check", "--dataset", rows, "--model", model, "--max-length", 0, "--decode", "true")
    assert code == 0 and out.endswith("no faults: 1 row can be trained on\n")


def test_json_is_one_document_and_nothing_else(run, rows, model, tmp_path) -> None:
    code, out, err = run("check", rows, "--model", model, "--json", "--fix", tmp_path / "clean.jsonl")
    report = json.loads(out)
    assert code == 5 and [fault["line"] for fault in report["faults"]] == [2] and report["total"]["sound"] == 2
    assert "sound rows:" in err and len((tmp_path / "clean.jsonl").read_text().splitlines()) == 2


def test_fixing_needs_a_model_and_overwrites_nothing(run, rows, model, tmp_path) -> None:
    out = tmp_path / "clean.jsonl"
    code, _, err = run("check", rows, "--fix", out)
    assert code == 2 and "give --model as well" in err and not out.exists()
    assert run("check", rows, "--model", model, "--fix", out)[0] == 5
    code, _, err = run("check", rows, "--model", model, "--fix", out)
    assert code == 2 and "is there already" in err
    assert run("check", rows, "--model", model, "--fix", out, "--overwrite")[0] == 5
    assert run("check", out, "--model", model)[0] == 0


@pytest.mark.parametrize(("words", "code", "part"), [
    (("check",), 2, "nothing says which rows"), (("check", "no.jsonl"), 2, "no.jsonl"),
    (("check", "rows.jsonl", "--on_overflw", "drop"), 2, "did you mean on_overflow?"),
    (("show", "rows.jsonl"), 3, "give --model"), (("chek",), 2, "did you mean check?"),
])
def test_what_cannot_be_run_says_why_in_one_line(words, code, part, run) -> None:
    given, _, err = run(*words)
    assert given == code and err.startswith("vlcore: error: ") and part in err and err.count("\n") == 1


def test_no_command_shows_the_help(run) -> None:
    code, out, _ = run()
    assert code == 0 and "check" in out and "show" in out


def test_a_row_is_shown_with_marks_where_there_are_no_colours(run, rows, model) -> None:
    code, out, _ = run("show", rows, "--model", model)
    assert code == 0 and "⟦Red.<|im_end|>⟧" in out and f"tokens: {rows.parent}/a.png>" in out and "\x1b" not in out


def test_colours_are_shown_on_request_and_never_without(run, rows, model, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _, out, _ = run("show", rows, "--model", model, "--color", "always")
    assert "\x1b[32mRed.\x1b[0m" in out and "⟦" not in out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b" not in run("show", rows, "--model", model)[1]
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in run("show", rows, "--model", model, "--color", "never")[1]


def test_rows_are_shown_from_a_line_on_with_ids(run, rows, model) -> None:
    code, out, _ = run("show", rows, "--model", model, "--row", 3, "--count", 2, "--ids")
    assert code == 0 and f"{rows}:3: " in out and "×" in out and f"{rows}:1: " not in out
    code, _, err = run("show", rows, "--model", model, "--row", 9)
    assert code == 2 and "near are 2 and 3" in err


def test_a_faulty_row_is_named_after_those_before_it_were_shown(run, rows, model) -> None:
    code, out, err = run("show", rows, "--model", model, "--count", 3)
    assert code == 5 and f"{rows}:1: " in out and f"{rows}:2: images[0]" in err


def test_boxes_of_a_row_are_drawn_and_kept(run, rows, model, tmp_path) -> None:
    file = tmp_path / "out.png"
    code, _, err = run("show", rows, "--model", model, "--row", 3, "--draw", file)
    assert code == 0 and f"boxes: {file}" in err
    with Image.open(file) as drawn:
        assert drawn.size == (28, 28) and len(drawn.getcolors()) > 1
    code, _, err = run("show", rows, "--model", model, "--row", 3, "--draw", file)
    assert code == 2 and "is there already" in err
    code, _, err = run("show", rows, "--model", model, "--draw", tmp_path / "none.png")
    assert code == 0 and "nothing is drawn" in err and not (tmp_path / "none.png").exists()


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(rows, model) -> None:
    rows.write_text(json.dumps(ROWS[0]) + "\n" + (json.dumps(ROWS[1]) + "\n") * 3000)
    words = [sys.executable, "-m", "vlcore.cli", "data", "check", str(rows), "--all"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout and command.stderr
        command.stdout.readline()
        command.stdout.close()
        err = command.stderr.read()
    assert command.returncode == 1
    assert "error" not in err and "Traceback" not in err and "Exception" not in err


def test_signs_that_a_terminal_lacks_are_replaced(rows, model) -> None:
    rows.write_text(json.dumps({"query": "猫?", "response": "Ja."}), "utf8")
    words = [sys.executable, "-m", "vlcore.cli", "data", "show", str(rows), "--model", str(model)]
    done = subprocess.run(words, capture_output=True, check=True, env=os.environ | {"PYTHONIOENCODING": "latin-1"})
    assert b"??" in done.stdout and b"?Ja." in done.stdout
