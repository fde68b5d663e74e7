"""The benchmark of rows runs on a few of them."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rows.py"


def test_the_benchmark_of_rows_measures_a_small_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_rows", SCRIPT)
    assert spec and spec.loader
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.write_rows(tmp_path, 20)
    benchmark.write_checkpoint(tmp_path / "model")
    for task in benchmark.TASKS:
        benchmark.run_task(task, tmp_path)
        seconds, peak = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert seconds >= 0 and peak > 0
