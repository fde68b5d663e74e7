"""Several processes train what one trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from vlcore.checkpoint import list_checkpoints
from vlcore.config import SftConfig

MakeConfig = Callable[..., SftConfig]


def run(config: SftConfig, processes: int) -> tuple[Path, str]:
    """Trains through the command line; returns the last checkpoint and what was printed."""
    values: dict[str, Any] = {**vars(config), "dataset": config.dataset[0], "report_to": "none"}
    defaults = vars(SftConfig())
    words = [word for name, value in values.items() if value != defaults[name] for word in (f"--{name}", str(value))]
    environment = os.environ | {"NPROC_PER_NODE": str(processes), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vlcore.cli", "sft", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = Path(config.output_dir).glob("*/v0-*")
    return list_checkpoints(folder)[-1], done.stdout


@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_two_processes_of_one_row_are_one_process_of_two(
    make_config: MakeConfig, sft_type: str, tmp_path: Path
) -> None:
    # Rows of text alone and rows with pictures meet in one update, and three rows to evaluate on are no even share.
    shared = {"sft_type": sft_type, "logging_steps": 3, "dataset_test_ratio": 0.25}
    one, _ = run(make_config(**shared, gradient_accumulation_steps=2, output_dir=str(tmp_path / "one")), 1)
    two, said = run(make_config(**shared, gradient_accumulation_steps=1, output_dir=str(tmp_path / "two")), 2)
    assert said.count("checkpoint: ") == 1
    name = "adapter_model.safetensors" if sft_type == "lora" else "model.safetensors"
    ours, theirs = load_file(two / name), load_file(one / name)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=2e-4, rtol=1e-4)
    logs = [(path.parent / "metrics.jsonl").read_text(encoding="utf8").splitlines() for path in (one, two)]
    losses = [[line.split('"eval_loss": ')[1].split(",")[0] for line in log if "eval_loss" in line] for log in logs]
    assert [float(x) for x in losses[1]] == pytest.approx([float(x) for x in losses[0]], rel=1e-4)
