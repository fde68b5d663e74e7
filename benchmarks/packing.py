"""Trained tokens a second: packed rows against padded batches of the same size, random and grouped by length.

    python benchmarks/packing.py [--rows 50] [--budget 1024] [--width 1024] [--layers 2]

The rows are the docstrings of Python's standard library as answers, so the lengths are those of texts that people
wrote; they are counted in tokens of the tiny model's tokenizer, and those above the budget are left out. It is done for
rows of text alone, and with a picture of one tile (256 positions) in every other row. The model is an InternVL2 in
miniature with random weights, its vision tower frozen. A batch of every way holds at most `budget` positions, padding
included: a pack, or rows times the longest of them. The ways take turns within each round, all train the same rows, and
a step is forward, backward and AdamW; pictures are decoded before.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import random
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from vlcore.attention import use_rows
from vlcore.batch import IGNORED, Example, Pack, collate, collate_packs
from vlcore.config import LoadConfig
from vlcore.media import normalise
from vlcore.messages import make_message, user
from vlcore.model import Frontend, build_frontend
from vlcore.packing import pack_rows
from vlcore.resolve import open_checkpoint
from vlcore.train.loss import sum_loss
from vlcore.train.order import GroupedOrder
from vlcore.train.packs import needs_flat
from vlcore_internvl.tiny import write_tiny

#: Turns that each way takes.
ROUNDS = 5
#: Rows of a step that are grouped by length before they are cut to the budget.
GROUPED = 8
Batch = dict[str, torch.Tensor]


def read_texts(count: int) -> list[str]:
    """Docstrings of the standard library, drawn at random."""
    found = set()
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf8")))
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
            found |= {text for node in nodes if isinstance(node, kinds) and (text := ast.get_docstring(node))}
    texts = sorted(found)
    random.Random(0).shuffle(texts)
    return texts[:count]


def make_examples(frontend: Frontend, texts: Sequence[str], pictures: bool, budget: int) -> list[Example]:
    """Rows that the budget has room for."""
    system = make_message("system", "Answer.")  # the usual one is long in the tiny model's tokens
    picture = Image.effect_noise((448, 448), 80).convert("RGB")
    rows = []
    for number, text in enumerate(texts):
        question = user("What does it do?", [picture] if pictures and number % 2 else ())
        example = frontend.encode([system, question, make_message("assistant", text)], train=True)
        rows += [example] if len(example) <= budget else []
    return rows


def pad_random(examples: Sequence[Example], budget: int) -> Iterator[list[Example]]:
    """Batches of rows as they come; a row that would exceed the budget begins the next one."""
    batch: list[Example] = []
    for example in examples:
        if max(map(len, [*batch, example])) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(example)
    yield batch


def pad_grouped(examples: Sequence[Example], budget: int) -> Iterator[list[Example]]:
    """Batches in the order of `--group_by_length`, those above the budget cut."""
    order = list(GroupedOrder([len(example) for example in examples], GROUPED, seed=0))
    for first in range(0, len(order), GROUPED):
        yield from pad_random([examples[row] for row in order[first : first + GROUPED]], budget)


def make_batches(frontend: Frontend, model: Any, examples: Sequence[Example], budget: int) -> dict[str, list[Batch]]:
    """The batches of one epoch by the way they are made, on the model's device."""
    pad, flat = frontend.tokenizer.pad_id, needs_flat(model)
    packs = pack_rows([len(example) for example in examples], budget, seed=0)
    ways = {
        "padded": [collate(batch, pad) for batch in pad_random(examples, budget)],
        "grouped": [collate(batch, pad) for batch in pad_grouped(examples, budget)],
        "packed": [collate_packs([Pack(tuple(examples[row] for row in pack))], pad, flat) for pack in packs],
    }
    return {
        way: [normalise(frontend.media, {n: t.to(model.device) for n, t in batch.items()}) for batch in batches]
        for way, batches in ways.items()
    }


def train(model: Any, optimizer: torch.optim.Optimizer, batches: Sequence[Batch]) -> float:
    """Seconds that steps over batches take: of the clock on a GPU, of this process on a CPU that others use, too."""
    on_gpu = model.device.type == "cuda"
    read_clock = time.perf_counter if on_gpu else time.process_time
    start = read_clock()
    for batch in batches:
        with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
            logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        loss, count = sum_loss(logits, batch["labels"])
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    if on_gpu:
        torch.cuda.synchronize()
    return read_clock() - start


def compare(model: Any, ways: dict[str, list[Batch]]) -> dict[str, float]:
    """Trained tokens a second of each way."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    seconds = dict.fromkeys(ways, 0.0)
    for batches in ways.values():
        train(model, optimizer, batches[:2])  # warm up
    for number in range(ROUNDS):
        for way, batches in ways.items():
            seconds[way] += train(model, optimizer, batches[number::ROUNDS])
    trained = {way: sum(int((b["labels"][:, 1:] != IGNORED).sum()) for b in batches) for way, batches in ways.items()}
    return {way: trained[way] / seconds[way] for way in ways}


def describe(way: str, batches: Sequence[Batch], budget: int, speed: float, base: float) -> str:
    """A line of the report."""
    positions = sum(batch["input_ids"].numel() for batch in batches)
    return (f"  {way:8} {len(batches):4} batches, {positions / len(batches) / budget:4.0%} of the budget, "
            f"{speed:7.0f} trained tokens/s, {speed / base:.2f} of padded")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 50), ("budget", 1024), ("width", 1024), ("layers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    texts = read_texts(given.rows)
    folder = Path(tempfile.mkdtemp())
    write_tiny(folder, texts=texts, tile=448, width=given.width, layers=given.layers)
    checkpoint = open_checkpoint(folder)
    frontend = build_frontend(checkpoint)
    for pictures in (False, True):
        model = checkpoint.call("load_model", config=LoadConfig(dtype="fp32")).train()
        model.config.get_text_config().use_cache = False
        use_rows(model)  # as training does when it packs; padded batches are computed as ever
        model.model.vision_tower.requires_grad_(False)
        examples = make_examples(frontend, texts, pictures, given.budget)
        lengths = [len(example) for example in examples]
        quartiles = ", ".join(f"{value:.0f}" for value in numpy.percentile(lengths, [0, 25, 50, 75, 100]))
        print(f"{'every other row with a picture' if pictures else 'text alone'}: {len(examples)} rows, quartiles of "
              f"their tokens {quartiles}; {model.device.type}")
        ways = make_batches(frontend, model, examples, given.budget)
        speeds = compare(model, ways)
        for way, batches in ways.items():
            print(describe(way, batches, given.budget, speeds[way], speeds["padded"]), flush=True)


if __name__ == "__main__":
    main()
