"""Time to the first batch, and peak memory, with a jsonl of a million rows.

    python benchmarks/rows.py [--count 1000000] [--forecast]

Each figure is that of a process of its own. Memory is the peak (VmHWM) above that of a process which opens the same
tiny checkpoint and encodes one row; time begins when the checkpoint is open and ends with the first batch of 16 rows,
in the order of a seeded shuffle of the training rows, with `forecast` false. `--forecast` measures the lengths of all
rows, too.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FAMILY, MODEL, BATCH = "internvl/internvl", "internvl2-2b", 16
WORDS = ["the", "harbour", "was", "quiet", "two", "boats", "lay", "at", "pier", "and", "a", "cat", "slept", "nets"]


def write_rows(folder: Path, count: int) -> None:
    """Rows of 10 to 400 words, one in ten with a picture."""
    from PIL import Image

    Image.new("RGB", (448, 448), "navy").save(folder / "sea.png")
    chance = random.Random(0)
    with (folder / "rows.jsonl").open("w", encoding="utf8") as file:
        for number in range(count):
            answer = " ".join(WORDS[(number + i) % len(WORDS)] for i in range(int(10 * 40 ** chance.random())))
            row: dict[str, Any] = {"query": f"What is in picture {number}?", "response": answer}
            if number % 10 == 0:
                row["images"] = ["sea.png"]
            file.write(json.dumps(row) + "\n")


def write_checkpoint(folder: Path) -> None:
    """A tiny checkpoint in the layout of a release."""
    from vlcore.plugins import get_registry

    registry = get_registry()
    family = registry.families[FAMILY]
    folder.mkdir()
    owner = registry.owner_of(family).name
    registry.call("write_tiny", owner, family=family, folder=folder, texts=[" ".join(WORDS)], seed=0)


def open_frontend(folder: Path) -> Any:
    """The checkpoint without its weights, and what a batch needs, imported."""
    from vlcore.config import LoadConfig
    from vlcore.messages import make_message
    from vlcore.model import build_frontend
    from vlcore.resolve import resolve_model

    frontend = build_frontend(resolve_model(LoadConfig(model=str(folder / "model"), model_type=MODEL)))
    frontend.encode([make_message("user", "Hello"), make_message("assistant", "Hi")], train=True)
    return frontend


def make_config(folder: Path) -> Any:
    """The rows as data of a training."""
    from vlcore.config import DataConfig

    return DataConfig(dataset=(str(folder / "rows.jsonl"),), forecast=False)


def nothing(frontend: Any, folder: Path) -> None:
    """What any process needs."""


def first_batch(frontend: Any, folder: Path) -> None:
    """Rows opened and split, an order of them, one batch."""
    import torch
    from vlcore.batch import collate
    from vlcore.dataset import read_datasets

    rows, _ = read_datasets(make_config(folder), frontend.checkpoint.family)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42))[:BATCH]
    examples = [frontend.encode(rows[int(index)].messages, train=True) for index in order]
    assert len(collate(examples, 0)["input_ids"]) == min(BATCH, len(rows))


def forecast(frontend: Any, folder: Path) -> None:
    """The length of every row to train on."""
    from vlcore.dataset import read_datasets
    from vlcore.forecast import forecast_rows

    rows, _ = read_datasets(make_config(folder), frontend.checkpoint.family)
    assert forecast_rows(frontend, rows).lengths.all()


TASKS: Mapping[str, Callable[[Any, Path], None]] = {
    task.__name__: task for task in (nothing, first_batch, forecast)
}


def run_task(name: str, folder: Path) -> None:
    """Runs a task in this process and prints seconds and peak memory in MB."""
    frontend = open_frontend(folder)
    start = time.perf_counter()
    TASKS[name](frontend, folder)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="utf8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(json.dumps([seconds, peak]))


def measure(name: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak MB of a task in a process of its own."""
    command = [sys.executable, __file__, "--task", name, "--folder", str(folder)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, peak = json.loads(printed.splitlines()[-1])
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="rows of the file")
    parser.add_argument("--forecast", action="store_true", help="learn the length of every row, too")
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        run_task(given.task, given.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, given.count)
        write_checkpoint(folder / "model")
        size = (folder / "rows.jsonl").stat().st_size / 1e6
        print(f"{given.count} rows, {size:.0f} MB")
        _, base = measure("nothing", folder)
        print(f"a process without rows: {base:.0f} MB")
        for task in ("first_batch", "forecast") if given.forecast else ("first_batch",):
            for state in ("cold", "cached"):
                seconds, peak = measure(task, folder)
                print(f"{task.replace('_', ' ')}, {state}: {seconds:.1f} s, {peak - base:.0f} MB above")


if __name__ == "__main__":
    main()
