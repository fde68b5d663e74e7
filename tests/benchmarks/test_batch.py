from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "batch.py"


def test_both_ways_answer_all_rows_and_the_figures_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["batch.py", "--small"])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    head, *ways, last = capsys.readouterr().out.splitlines()
    assert head.startswith("8 rows with a picture, 4 tokens an answer, on ")
    assert [line.split(":")[0] for line in ways] == ["batches of  1", "batches of  8"]
    assert last.startswith("ratio ") and last.endswith("of 8 answers are the same")
