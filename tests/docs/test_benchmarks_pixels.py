"""The benchmarks of pictures run on a few of them."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "shown"),
    [("tiles.py", ["resizing", "640 x 427", "as many of each"]),
     ("headers.py", ["JPEG:", "JPEG with EXIF:", "PNG:"])],
)
def test_a_benchmark_prints_its_figures(script: str, shown: list[str]) -> None:
    command = [sys.executable, str(FOLDER / script), "--count", "1", "--small"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(shown)
    assert all(line.startswith(start) for line, start in zip(lines, shown, strict=True))
