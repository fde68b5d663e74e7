"""Runs that are stopped or killed: nothing is lost, nothing is done twice, no broken checkpoint is chosen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from vlcore.checkpoint import read_run
from vlcore.config import SftConfig, write_config
from vlcore.train.folder import list_runs
from vlcore.train.sft import sft

KILLS = 20
STEPS = 24
#: Trains in a forked child that is killed after a random time, again and again, and once to the end. The fork
#: spares the minutes that importing would take.
KILLER = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import peft, transformers, vlcore.train.sft, vlcore.train.loop
from vlcore.config import SftConfig, read_config
from vlcore.errors import CheckpointError
from vlcore.train.folder import find_latest
from pathlib import Path

config = json.loads(sys.argv[1])
kills, spread, chance = int(sys.argv[2]), float(sys.argv[3]), random.Random(int(sys.argv[4]))

def train():
    parent = Path(config["output_dir"], Path(config["model"]).name)
    try:
        find_latest(parent)
        resumed = {"resume_from_checkpoint": "latest"}
    except CheckpointError:
        resumed = {}
    vlcore.train.sft.sft(read_config(SftConfig, {**config, **resumed}))

landed = 0
for number in range(kills + 1):
    child = os.fork()
    if not child:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os.dup2(sys.stdout.fileno(), 1); os.dup2(sys.stdout.fileno(), 2)
        code = 1
        try:
            train()
            code = 0
        finally:
            os._exit(code)
    if number < kills:
        time.sleep(chance.uniform(0, spread))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    landed += os.WIFSIGNALED(status)
print(landed, os.waitstatus_to_exitcode(status))
"""


def read_losses(folder: Path) -> list[tuple[int, float]]:
    entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def find_last_run(config: SftConfig) -> Path:
    runs = [run for _, run in list_runs(Path(config.output_dir, Path(config.model).name))]
    return next(run for run in reversed(runs) if list(run.glob("checkpoint-*")))


def test_a_run_killed_at_random_moments_has_the_losses_of_one_that_was_not(
    make_config: Callable[..., SftConfig],
) -> None:
    config = make_config(max_steps=STEPS, save_steps=1, eval_steps=6)
    begun = time.monotonic()
    whole = sft(replace(config, output_dir=config.output_dir + "-whole"))
    spread = 0.4 * (time.monotonic() - begun)
    text = json.dumps(write_config(config))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, text, str(KILLS), str(spread), "7"], capture_output=True, text=True, check=True)
    landed, code = map(int, done.stdout.split())
    assert code == 0
    assert landed >= KILLS // 2
    run = find_last_run(config)
    assert read_losses(run) == read_losses(whole.folder)
    assert not list(run.glob(".*.part"))


#: Goes on with a training where no file may grow beyond what the adapter needs, as on a full disk.
FULL = """
import json, resource, signal, sys
from vlcore.config import SftConfig, read_config
from vlcore.train.sft import sft
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    sft(read_config(SftConfig, json.loads(sys.argv[1])))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_ends_in_one_line_and_leaves_the_last_good_checkpoint(
    make_config: Callable[..., SftConfig],
) -> None:
    config = make_config(max_steps=2, save_steps=2, lora_rank=64)
    good = sft(config).checkpoint
    more = replace(config, max_steps=4, resume_from_checkpoint="latest")
    done = subprocess.run(
        [sys.executable, "-c", FULL, json.dumps(write_config(more))], capture_output=True, text=True, check=True)
    assert "\nCheckpointError folder " in f"\n{done.stdout}", done.stdout + done.stderr
    assert "make room on the disk" in done.stdout
    assert read_run(good).damaged == []
    assert sorted(path.name for path in good.parent.glob("*checkpoint*")) == [good.name]
    assert sft(more).checkpoint.name == "checkpoint-4"


def start_command(config: SftConfig, **environment: str) -> subprocess.Popen[str]:
    options = [
        part for name, value in write_config(config).items() if value not in (None, "", [], ())
        for part in (f"--{name}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)]))
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "vlcore.cli", "sft", *options], env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_ends_and_can_be_gone_on_from(
    number: signal.Signals, processes: int, make_config: Callable[..., SftConfig]
) -> None:
    config = make_config(max_steps=400, save_steps=400, eval_steps=400, gradient_accumulation_steps=1)
    started = start_command(config, NPROC_PER_NODE=str(processes))
    root = Path(config.output_dir)
    while started.poll() is None and not any("loss" in p.read_text() for p in root.rglob("metrics.jsonl")):
        time.sleep(0.05)
    started.send_signal(number)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 128 + number, said
    assert said.count(f"training stopped by {'SIGTERM' if processes > 1 else number.name}") == 1
    assert "--resume_from_checkpoint latest" in said
    (checkpoint,) = root.rglob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 0 < step < 400
    going_on = replace(config, resume_from_checkpoint="latest", max_steps=step + 2, save_steps=1)
    if processes == 1:
        assert sft(going_on).checkpoint.name == f"checkpoint-{step + 2}"
