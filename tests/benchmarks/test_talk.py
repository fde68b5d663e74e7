"""The benchmark of talks runs on a model that is too small to tell anything."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "talk.py"


def test_the_benchmark_of_talks_prints_its_figures() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--small"], capture_output=True, text=True, check=True)
    first, decoding = done.stdout.splitlines()
    assert first.startswith("first token of turn 3, ") and first.endswith(" times")
    assert decoding.startswith("decoding, tokens a second: chat ") and decoding.endswith(" of it streamed")
