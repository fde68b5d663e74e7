"""Rows a second of `vlcore infer --val_dataset`: batches of 8 against one row at a time.

    python benchmarks/batch.py [--rows 64] [--batch 8] [--tokens 32] [--rounds 3] [--small]
                               [--width 1024] [--layers 4] [--tile 112]

Questions of different lengths, each about a picture of its own of one tile (16 positions at 112 pixels), are answered
greedily by an InternVL2 in miniature with random weights whose answers all have the same length. Both ways go through
the same `answer_rows`, files and all, with the same model; they take turns within each round, and the figures are
medians. The answers of both are compared: they may part where rounding decides between two tokens.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from vlcore.config import InferConfig
from vlcore.evaluate import answer_rows, find_rows
from vlcore.model import VLModel, load_model
from vlcore.template import Stop
from vlcore_internvl.tiny import write_tiny

#: How weights are kept, by whether there is a GPU.
DTYPES = {False: "fp32", True: "bf16"}


def open_model(folder: Path, width: int, layers: int, tile: int) -> VLModel:
    """A model with random weights whose answers never stop by themselves, so that all are equally long."""
    write_tiny(folder, width=width, layers=layers, tile=tile, texts=["What is in this picture, and where?"])
    model = load_model(folder, dtype=DTYPES[torch.cuda.is_available()])
    endless = replace(model.frontend.template, stop=Stop())  # type: ignore[type-var]
    model.frontend = replace(model.frontend, template=endless)
    return model


def write_rows(folder: Path, count: int, tile: int) -> Path:
    """Questions of one to eight sentences, each with a picture."""
    lines = []
    for number in range(count):
        Image.effect_noise((tile, tile), 40 + number).convert("RGB").save(folder / f"{number}.png")
        question = "What is in this picture, and where? " * (1 + number * 5 % 8)
        lines.append(json.dumps({"query": f"<image>{question}{number}", "images": [f"{number}.png"]}) + "\n")
    path = folder / "rows.jsonl"
    path.write_text("".join(lines), encoding="utf8")
    return path


def take_time(model: VLModel, data: Path, size: int, tokens: int) -> tuple[float, list[str]]:
    """Seconds to answer all rows in batches of a size, and the answers."""
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        path = Path(folder) / "answers.jsonl"
        config = InferConfig(model=str(data.parent), val_dataset=(str(data),), infer_batch_size=size,
                             max_new_tokens=tokens, temperature=0.0)
        start = time.perf_counter()
        answer_rows(model, find_rows(model, config), path, config)
        seconds = time.perf_counter() - start
        return seconds, [json.loads(line)["response"] for line in path.read_text("utf8").splitlines()]


def compare(
    model: VLModel, data: Path, sizes: Sequence[int], tokens: int, rounds: int
) -> tuple[dict[int, float], int]:
    """Median seconds of each batch size, and how many rows have the same answer in all."""
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    answers: dict[int, list[str]] = {}
    for size in sizes:
        take_time(model, data, size, 2)  # warm up
    for _ in range(rounds):
        for size in sizes:
            taken, answers[size] = take_time(model, data, size, tokens)
            seconds[size].append(taken)
    same = sum(len(set(texts)) == 1 for texts in zip(*answers.values(), strict=True))
    return {size: statistics.median(taken) for size, taken in seconds.items()}, same


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = {"rows": 64, "batch": 8, "tokens": 32, "rounds": 3, "width": 1024, "layers": 4, "tile": 112}
    for name, value in usual.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--small", action="store_true", help="a model and rows that take seconds, for a test")
    given = parser.parse_args()
    if given.small:
        given.rows, given.tokens, given.width, given.layers, given.tile, given.rounds = 8, 4, 64, 1, 28, 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = open_model(folder, given.width, given.layers, given.tile)
        data = write_rows(folder, given.rows, given.tile)
        seconds, same = compare(model, data, (1, given.batch), given.tokens, given.rounds)
    print(f"{given.rows} rows with a picture, {given.tokens} tokens an answer, on {model.device.type}, "
          f"{torch.get_num_threads()} threads")
    for size, taken in seconds.items():
        print(f"batches of {size:2d}: {given.rows / taken:7.2f} rows a second")
    print(f"ratio {seconds[1] / seconds[given.batch]:.2f}; {same} of {given.rows} answers are the same")


if __name__ == "__main__":
    main()
