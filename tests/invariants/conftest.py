"""Fixtures: a tiny release, rows with small pictures, and short trainings of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from vlcore.config import SftConfig
from vlcore.media import normalise
from vlcore.model import Frontend
from vlcore.train.loss import sum_loss

COLOURS = ["red", "green", "blue", "yellow", "white"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tensors this small are computed fastest, and always alike, by one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vlcore_internvl import tiny

    folder = tmp_path_factory.mktemp("release")
    tiny.write_tiny(folder, tile=28, width=64, layers=1)
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows, with and without a picture, of different lengths."""
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for number in range(12):
        colour = COLOURS[number % 5]
        row = {"query": "Which colour?", "response": f"It is {colour}. " * (1 + number % 3)}
        if number % 4:
            Image.new("RGB", (32 + 8 * number, 32), colour).save(folder / f"{number}.png")
            row["images"] = [f"{number}.png"]
        lines.append(json.dumps(row) + "\n")
    (folder / "rows.jsonl").write_text("".join(lines))
    return folder / "rows.jsonl"


@pytest.fixture
def make_config(release: Path, rows: Path, tmp_path: Path) -> Callable[..., SftConfig]:
    """Makes the configuration of a training of a few steps without chance in it."""
    usual = {
        "model": str(release), "dataset": (str(rows),), "output_dir": str(tmp_path / "output"),
        "max_steps": 4, "save_steps": 2, "eval_steps": 2, "logging_steps": 1, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3, "lora_dropout_p": 0.0, "dataset_test_ratio": 0.2, "report_to": ("none",),
    }
    return lambda **given: SftConfig(**{**usual, **given})


def measure(
    frontend: Frontend, model: Any, batches: Sequence[dict[str, torch.Tensor]]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over batches and the gradients of all weights."""
    model.zero_grad(set_to_none=True)
    sums = []
    for batch in batches:
        inputs = normalise(frontend.media, batch)
        labels = inputs.pop("labels")
        sums.append(sum_loss(model(**inputs).logits, labels))
    loss = sum(loss for loss, _ in sums) / sum(count for _, count in sums)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
