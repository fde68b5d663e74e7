from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from vlcore.batch import IGNORED, Example, Layout

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "packing.py"


def test_a_small_run_reports_every_way_for_both_kinds_of_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--rows", "6", "--budget", "400", "--width", "64", "--layers", "1"]
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), *arguments])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    ways = ["padded", "grouped", "packed"]
    assert [line.split()[0] for line in lines] == ["text", *ways, "every", *ways]
    assert lines[1].endswith("1.00 of padded")


def test_padded_batches_keep_the_budget_and_every_row() -> None:
    names: dict[str, Any] = runpy.run_path(str(BENCHMARK))
    rows = [Example(Layout((n,) * (1 + n * 37 % 90), (IGNORED,) * (1 + n * 37 % 90), (), (), "")) for n in range(50)]
    for way in ("pad_random", "pad_grouped"):
        batches = [batch for batch in names[way](rows, 200) if batch]
        assert sorted(row.ids[0] for batch in batches for row in batch) == list(range(50))
        assert all(max(map(len, batch)) * len(batch) <= 200 for batch in batches)
