"""Several processes train what one trains, however the model is divided among them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import vlcore
from PIL import Image
from safetensors.torch import load_file
from vlcore.checkpoint import list_checkpoints, read_run
from vlcore.messages import user

COLOURS = ["red", "green", "blue", "yellow", "white"]
STEPS = 20
#: What divides the model, and the arguments for it.
WAYS = {
    "ddp": (), "zero2": ("--deepspeed", "default-zero2"), "zero3": ("--deepspeed", "default-zero3"),
    "fsdp": ("--fsdp", "full_shard"),
}
#: Runs the command in forked processes that know each other as torchrun's do, and notes which rows each of them reads.
#: Importing is done once, which spares the tests minutes; the tests at the end of this file go through torchrun.
SERVER = """
import json, os, sys, time
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
torch.set_num_threads(1)
import deepspeed, peft, transformers, vlcore.train.loop, vlcore.train.sft
from vlcore.cli import main
from vlcore.train.data import Examples

take = Examples.__getitem__

def note(self, index):
    with open(f"seen-{os.environ.get('RANK', 0)}", "a") as file:
        print(len(self), index, file=file)
    return take(self, index)

Examples.__getitem__ = note
save = vlcore.train.loop.Loop._save_optimizer_and_scheduler

def weigh(self, folder):
    # How many numbers this process has of the optimizer's first moments, and how many there are.
    held = [state["exp_avg"] for state in self.optimizer.state.values() if "exp_avg" in state]
    own = sum(getattr(tensor, "_local_tensor", tensor).numel() for tensor in held)
    with open(f"share-{os.environ.get('RANK', 0)}", "w") as file:
        print(own, sum(tensor.numel() for tensor in held), file=file)
    save(self, folder)

vlcore.train.loop.Loop._save_optimizer_and_scheduler = weigh

def train(words, environment, folder):
    os.environ.update(environment)
    os.chdir(folder)
    log = os.open(f"said-{environment.get('RANK', 0)}", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1), os.dup2(log, 2)
    code = 1
    try:
        main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    job = json.loads(line)
    world, children, codes = job["world"], {}, {}
    for rank in range(world):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", **job["port"]}
        pid = os.fork()
        if not pid:
            train(job["words"], {k: str(v) for k, v in place.items()} if world > 1 else {}, job["folder"])
        children[pid] = rank
    end = time.monotonic() + 150
    while children and time.monotonic() < end:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[children.pop(pid)] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for pid in children:
        os.kill(pid, 9)
    print(json.dumps([codes.get(rank, "hangs") for rank in range(world)]), flush=True)
"""


@dataclass(frozen=True)
class Trained:
    """A run that ended well.

    Attributes:
        folder: the run's folder.
        work: where the processes ran.
    """

    folder: Path
    work: Path

    @property
    def checkpoint(self) -> Path:
        return list_checkpoints(self.folder)[-1]

    def read_figures(self, name: str) -> list[float]:
        entries = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [entry[name] for entry in entries if name in entry]

    def read_weights(self) -> dict[str, torch.Tensor]:
        (path,) = self.checkpoint.glob("*model.safetensors")
        return load_file(path)

    def read_seen(self, rank: int, rows: int) -> list[int]:
        """Which of the training rows a process read, in its order."""
        seen = [line.split() for line in (self.work / f"seen-{rank}").read_text().splitlines()]
        return [int(index) for count, index in seen if int(count) == rows]


    def read_share(self, rank: int) -> tuple[int, int]:
        """How many numbers of the optimizer's first moments a process had in the end, and how many there are."""
        own, whole = (self.work / f"share-{rank}").read_text().split()
        return int(own), int(whole)


Train = Callable[..., Trained]


@pytest.fixture(scope="session")
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        yield started


def find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def read_run_folder(output: Path) -> Path:
    (folder,) = output.glob("*/v*-*")
    return folder


@pytest.fixture(scope="session")
def train(server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains in several processes and gives what they left; all must end well within a time."""

    def start(words: Sequence[str], world: int) -> Trained:
        work = tmp_path_factory.mktemp("train")
        job = {"words": ["sft", "--output_dir", str(work / "output"), *words], "world": world, "folder": str(work),
               "port": {"MASTER_PORT": find_port()}}
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        said = "".join(path.read_text()[-3000:] for path in sorted(work.glob("said-*")))
        assert codes == [0] * world, said
        return Trained(read_run_folder(work / "output"), work)

    return start


@dataclass(frozen=True)
class Mixed:
    """Rows of text alone and with pictures, one of which is damaged behind its header."""

    train: Path
    validation: Path
    rows: int = 22


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    folder = tmp_path_factory.mktemp("mixed")
    lines = []
    for number in range(25):
        colour = COLOURS[number % 5]
        row: dict[str, Any] = {"query": "Which colour?", "response": f"It is {colour}. " * (1 + number % 3)}
        if number % 2:
            Image.new("RGB", (32 + 4 * number, 32), colour).save(folder / f"{number}.png")
            row["images"] = [f"{number}.png"]
        lines.append(json.dumps(row) + "\n")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[:-40])
    mixed = Mixed(folder / "train.jsonl", folder / "validation.jsonl")
    mixed.train.write_text("".join(lines[:22]))
    mixed.validation.write_text("".join(lines[22:]))
    return mixed


def list_words(model: Path, mixed: Mixed, sft_type: str, world: int) -> list[str]:
    """A training without chance, of two rows an update in any number of processes up to two."""
    return [
        "--model", str(model), "--dataset", str(mixed.train), "--val_dataset", str(mixed.validation),
        "--bad_rows", "skip", "--sft_type", sft_type, "--max_steps", str(STEPS), "--save_steps", str(STEPS // 2),
        "--eval_steps", str(STEPS // 2), "--logging_steps", "1", "--learning_rate", "1e-3", "--lora_dropout_p", "0",
        "--gradient_accumulation_steps", str(2 // world), "--report_to", "none",
    ]


@pytest.fixture(scope="session")
def alone(train: Train, release: Path, mixed: Mixed) -> Callable[[str], Trained]:
    """What one process trains."""
    done: dict[str, Trained] = {}

    def run(sft_type: str) -> Trained:
        if sft_type not in done:
            done[sft_type] = train(list_words(release, mixed, sft_type, 1), 1)
        return done[sft_type]

    return run


def compare_losses(ours: Trained, theirs: Trained) -> None:
    for name, count in (("loss", STEPS), ("eval_loss", 2)):
        assert len(ours.read_figures(name)) == count
        assert ours.read_figures(name) == pytest.approx(theirs.read_figures(name), abs=1e-4, rel=0)


def check_rows(ours: Trained, theirs: Trained, rows: int) -> None:
    """Each process has rows of its own, and all of them together those of one process in its order."""
    order = theirs.read_seen(0, rows)
    for rank in (0, 1):
        own = ours.read_seen(rank, rows)
        assert own[:STEPS] == order[rank::2][:STEPS]


def check_shares(checkpoint: Path, way: str) -> None:
    """The states of the optimizer, and under ZeRO-3 the weights, are divided into halves."""
    (folder,) = checkpoint.glob("global_step*")
    states = [path.stat().st_size for path in sorted(folder.glob("*_optim_states.pt"))]
    assert len(states) == 2 and states[0] == pytest.approx(states[1], rel=0.05)
    held = [torch.load(path, weights_only=False) for path in sorted(folder.glob("*_optim_states.pt"))]
    name = "fp32_flat_groups" if way == "zero3" else "single_partition_of_fp32_groups"
    parts = [sum(group.numel() for group in each["optimizer_state_dict"][name]) for each in held]
    # Shares are filled up to whole numbers of elements.
    trained = sum(tensor.numel() for tensor in load_file(next(checkpoint.glob("*model.safetensors"))).values())
    assert all(trained / 2 <= part < trained / 2 + 200 for part in parts)
    assert len(list(folder.glob("*_model_states.pt"))) == (2 if way == "zero3" else 1)


def compare_files(ours: Path, theirs: Path) -> None:
    """The same files, apart from the states of the processes, with tensors of the same names, shapes and dtypes."""
    states = ("optimizer", "rng", "global", "latest", "zero")
    kept = [{name for name in read_run(path).files if not name.startswith(states)} for path in (ours, theirs)]
    assert kept[0] == kept[1]
    (name,) = (name for name in kept[0] if name.endswith("model.safetensors"))
    held, wanted = load_file(ours / name), load_file(theirs / name)
    assert held.keys() == wanted.keys()
    for key, tensor in held.items():
        assert (tensor.shape, tensor.dtype) == (wanted[key].shape, wanted[key].dtype)
        torch.testing.assert_close(tensor, wanted[key], atol=2e-5, rtol=0)


def check_use(checkpoint: Path, mixed: Mixed, folder: Path) -> None:
    """What was written can be asked, and an adapter exported, with the same scores."""
    models = [vlcore.load_model(checkpoint)]
    example = models[0].encode([user("Which colour?", [mixed.train.parent / "1.png"])])
    if (checkpoint / "adapter_config.json").is_file():
        models.append(vlcore.load_model(vlcore.merge(checkpoint, folder / "merged")))
    scores = [model.compute_logits(example)[0] for model in models]
    assert scores[0].isfinite().all()
    torch.testing.assert_close(scores[-1], scores[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_two_processes_train_write_and_resume_what_one_does(
    sft_type: str, way: str, train: Train, alone: Callable[[str], Trained], release: Path, mixed: Mixed, tmp_path: Path
) -> None:
    # Rows of text meet rows with pictures, one row cannot be read, and three rows to evaluate on are no even share:
    # a process that did not take its part in all of it would leave the other waiting.
    words = [*list_words(release, mixed, sft_type, 2), *WAYS[way]]
    one, two = alone(sft_type), train(words, 2)
    compare_losses(two, one)
    check_rows(two, one, mixed.rows)
    compare_files(two.checkpoint, one.checkpoint)
    skipped = [(run.folder / "skipped.txt").read_text().splitlines() for run in (one, two)]
    assert set(skipped[0]) == set(skipped[1]) and skipped[0][0].startswith(f"{mixed.train}:4: image")
    if way.startswith("zero"):
        check_shares(two.checkpoint, way)
    else:
        shares = [own / whole for own, whole in map(two.read_share, (0, 1))]
        assert shares == pytest.approx([0.5, 0.5] if way == "fsdp" else [1, 1], abs=0.02)
    check_use(two.checkpoint, mixed, tmp_path)
    half = two.folder / f"checkpoint-{STEPS // 2}"
    going_on = train([*words, "--resume_from_checkpoint", str(half)], 2)
    ours, theirs = going_on.read_weights(), two.read_weights()
    for key, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[key], atol=1e-6, rtol=0)
    assert going_on.read_figures("loss") == pytest.approx(two.read_figures("loss"), abs=1e-6)


def write_tiny(family: str, folder: Path) -> None:
    """A checkpoint with random weights; text and vision as small as the family allows."""
    from vlcore_deepseek_vl import tiny as deepseek
    from vlcore_qwen_vl import tiny as qwen
    from vlcore_yi_vl import tiny as yi

    writers = {
        "deepseek-hybrid": lambda: deepseek.write_tiny(folder, hybrid=True),
        "qwen": lambda: qwen.write_tiny(folder, layers=1),
        "yi": lambda: yi.write_tiny(folder, layers=1),
    }
    writers[family]()


@pytest.mark.parametrize("family", ["deepseek-hybrid", "qwen", "yi"])
def test_two_processes_of_every_family_train_what_one_does(
    family: str, train: Train, mixed: Mixed, tmp_path: Path
) -> None:
    write_tiny(family, tmp_path)
    short = ["--max_steps", "4", "--save_steps", "4", "--eval_steps", "4"]
    one, two = (train([*list_words(tmp_path, mixed, "full", world), *short], world) for world in (1, 2))
    for name in ("loss", "eval_loss"):
        assert two.read_figures(name) == pytest.approx(one.read_figures(name), abs=1e-4, rel=0)


def test_packs_in_two_processes_train_what_they_do_in_one(train: Train, release: Path, mixed: Mixed) -> None:
    packing = ["--packing", "true", "--max_length", "160"]
    one, two = (train([*list_words(release, mixed, "full", world), *packing], world) for world in (1, 2))
    compare_losses(two, one)


def start_command(words: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    """`vlcore sft`, which starts its processes through torchrun."""
    command = [sys.executable, "-m", "vlcore.cli", "sft", *words]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=os.environ | environment, text=True, **pipes)


def run_command(words: Sequence[str], **environment: str) -> tuple[int, str, str]:
    with start_command(words, **environment) as started:
        said, complained = started.communicate(timeout=150)
    return started.returncode, said, complained


@pytest.mark.parametrize("way", ["ddp", "zero3"])
def test_the_command_starts_its_processes_and_speaks_once(
    way: str, release: Path, mixed: Mixed, alone: Callable[[str], Trained], tmp_path: Path
) -> None:
    words = [*list_words(release, mixed, "full", 2), *WAYS[way], "--output_dir", str(tmp_path)]
    code, said, complained = run_command(words, NPROC_PER_NODE="2")
    assert code == 0, complained[-3000:]
    assert [line.split(":")[0] for line in said.splitlines()] == ["checkpoint", "best"]
    # What is said is a progress bar, the log, and one warning of a skipped row; nothing of torchrun or of DeepSpeed.
    assert "vlcore: warning" not in complained and "torch" not in complained.lower().replace(str(tmp_path), "")
    compare_losses(Trained(read_run_folder(tmp_path), tmp_path), alone("full"))


def test_two_machines_with_more_processes_than_rows_train_together(
    release: Path, mixed: Mixed, tmp_path: Path
) -> None:
    single = tmp_path / "single.jsonl"
    single.write_text(mixed.train.read_text().splitlines()[0] + "\n")
    words = ["--model", str(release), "--dataset", str(single), "--val_dataset", str(single), "--max_steps", "2",
             "--save_steps", "2", "--eval_steps", "2", "--logging_steps", "1", "--report_to", "none",
             "--output_dir", str(tmp_path / "output")]
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_port())}
    machines = [start_command(words, NODE_RANK=str(number), **place) for number in (0, 1)]
    for number, machine in enumerate(machines):
        with machine:
            said, complained = machine.communicate(timeout=150)
        assert machine.returncode == 0, complained[-3000:]
        assert said.count("checkpoint: ") == (not number)
    trained = Trained(read_run_folder(tmp_path / "output"), tmp_path)
    assert trained.checkpoint.name == "checkpoint-2"
    assert len(trained.read_figures("loss")) == 2 and len(trained.read_figures("eval_loss")) == 1


def test_a_row_too_long_is_told_once_with_its_exit_code(release: Path, mixed: Mixed, tmp_path: Path) -> None:
    words = [*list_words(release, mixed, "lora", 2), "--max_length", "20", "--output_dir", str(tmp_path)]
    code, said, complained = run_command(words, NPROC_PER_NODE="2")
    assert (code, said) == (5, "")
    (line,) = complained.splitlines()
    assert line.startswith("vlcore: error: ") and "more tokens than --max_length 20" in line and "; " in line


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--deepspeed", "default-zero4"], "did you mean default-zero"),
     (["--fsdp", "ful_shard"], "did you mean full_shard"),
     (["--deepspeed", "default-zero2", "--fsdp", "full_shard"], "both divide the model"),
     (["--quantization_bit", "4", "--fsdp", "full_shard"], "quantized weights cannot be divided")],
)
def test_a_division_that_cannot_be_is_told_before_processes_start(words: list[str], told: str) -> None:
    code, said, complained = run_command(["--model", "m", "--dataset", "d", *words], NPROC_PER_NODE="2")
    assert (code, said, complained.count("\n")) == (2, "", 1)
    assert complained.startswith("vlcore: error: ") and told in complained


def test_a_killed_process_ends_the_others_and_is_told_of(release: Path, mixed: Mixed, tmp_path: Path) -> None:
    words = [*list_words(release, mixed, "lora", 2), "--max_steps", "100000", "--output_dir", str(tmp_path)]
    started = start_command(words, NPROC_PER_NODE="2")
    while started.poll() is None and not any("loss" in path.read_text() for path in tmp_path.rglob("metrics.jsonl")):
        time.sleep(0.05)
    family = psutil.Process(started.pid).children(recursive=True)
    ranks = {int(each.environ()["RANK"]): each for each in family if "RANK" in each.environ()}
    ranks[1].send_signal(signal.SIGKILL)
    with started:
        said, complained = started.communicate(timeout=60)
    assert (started.returncode, said) == (128 + signal.SIGKILL, "")
    last = complained.splitlines()[-1]
    assert "vlcore: error: process 1: it was ended by SIGKILL; " in last
    assert complained.count("vlcore: error") == 1 and "Traceback" not in complained
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
