from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "serve.py"


def test_a_small_run_reports_both_speeds() -> None:
    arguments = ["--clients", "4", "--requests", "6", "--tokens", "4", "--width", "64", "--layers", "1"]
    done = subprocess.run([sys.executable, str(BENCHMARK), *arguments], capture_output=True, text=True, check=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"1 client: \d+ tokens/s", lines[0])
    assert re.fullmatch(r"4 clients: \d+ tokens/s, \d+\.\d\d times as many", lines[1])
