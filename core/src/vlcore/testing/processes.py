"""Two processes that train together: one has a row of text, the other one with a picture.

They exchange gradients over gloo, as those of `vlcore sft` do. A fresh process (`python -m vlcore.testing.processes
FOLDER`) imports what they need once and divides into them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.batch import Example
from vlcore.errors import first_line
from vlcore.messages import Message, read_message, write_message
from vlcore.testing.numbers import TOLERANCE, differ
from vlcore.testing.outcome import Fault

if TYPE_CHECKING:
    import torch

    from vlcore.model import VLModel
    from vlcore.testing.subject import Subject

#: Seconds until processes that wait for each other are ended.
PATIENCE = 120
#: Exit code of processes that waited for that long.
WAITING = 75
#: What begins the line in which a process says why it fails.
SIGN = "failed: "
ASKED, TOLD = "asked.json", "told.safetensors"
#: The conversations that the two processes have.
SHARES = ("text", "picture")
ADVICE = ("let forward run the same modules whatever the batch holds, take a batch without pixels, and change no "
          "buffer in place")


def check_processes(subject: Subject) -> None:
    """Two processes with different rows end a step together, with the loss and gradients of one process."""
    from safetensors.torch import load_file

    folder = subject.new_folder("processes")
    talks = {talk.name: [write_message(message) for message in talk.messages] for talk in subject.talks}
    asked = {"model": str(subject.folder), "rows": [talks[name] for name in SHARES]}
    (folder / ASKED).write_text(json.dumps(asked), encoding="utf8")
    run_processes(folder)
    found = load_file(folder / TOLD)
    expected = compute_step(subject.load(), [subject.rows[name] for name in SHARES])
    for name, value in expected.items():
        gap = differ(found[name], value) if name in found else float("inf")
        if gap > TOLERANCE and float(value.abs().max()) > 1e-6:
            what = "the loss" if name == "loss" else f"the gradient of {name}"
            raise Fault(f"{what} of two processes", f"it differs by {gap:.2g} from that of one", ADVICE)


def run_processes(folder: Path) -> None:
    """Runs the step in two processes.

    Raises:
        Fault: when one fails, or they wait for each other.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    if done.returncode == WAITING:
        raise Fault("a step of two processes", f"they wait for each other for {PATIENCE} seconds", ADVICE)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        # The first one says what happened; the other one that it has lost the first.
        first = next((line.removeprefix(SIGN) for line in said if line.startswith(SIGN)), said[-1])
        raise Fault("a step of two processes", f"one of them fails ({first})", ADVICE)


def compute_step(model: VLModel, examples: list[Example], world: int = 1) -> dict[str, torch.Tensor]:
    """The loss over all processes' rows, and its gradients by the names of the parameters."""
    import torch
    import torch.distributed as dist

    from vlcore.train.blank import collate_filled, make_blank
    from vlcore.train.learner import leave_cache
    from vlcore.train.loss import sum_loss

    module: Any = model.module.train()
    leave_cache(module)
    blank = make_blank(model.frontend) if world > 1 else None
    batch = model.place(collate_filled(examples, model.frontend.tokenizer.pad_id, blank))
    labels = batch.pop("labels")
    wrapped = torch.nn.parallel.DistributedDataParallel(module, find_unused_parameters=True) if world > 1 else module
    loss, count = sum_loss(wrapped(**batch).logits, labels)
    if world > 1:
        dist.all_reduce(count)
    mean: Any = loss * world / count  # gradients are averaged over processes
    mean.backward()
    total = loss.detach() / count
    if world > 1:
        dist.all_reduce(total)
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"loss": total.reshape(1), **gradients}


def divide(folder: Path) -> int:
    """Becomes two processes that do the step; the exit code of the first that fails, which ends the other one."""
    from vlcore.model import load_model

    asked = json.loads((folder / ASKED).read_text(encoding="utf8"))
    model = load_model(asked["model"], dtype="fp32", device_map="cpu")  # and imports all there is to import, once
    begun, children, code = time.monotonic(), set[int](), 0
    for rank, row in enumerate(asked["rows"]):
        pid = os.fork()
        if not pid:
            os._exit(take_part(folder, rank, model, tuple(map(read_message, row))))
        children.add(pid)
    while children and not code:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            children.remove(pid)
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() - begun > PATIENCE:
            code = WAITING
        time.sleep(0.01)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return code


def take_part(folder: Path, rank: int, model: VLModel, messages: Sequence[Message]) -> int:
    """What each of the processes does; its exit code."""
    import torch.distributed as dist
    from safetensors.torch import save_file

    try:
        # A file as the meeting point needs no free port.
        dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
        found = compute_step(model, [model.encode(messages, train=True)], 2)
        if rank == 0:
            save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / TOLD)
    except Exception as error:
        print(f"{SIGN}{type(error).__name__}: {first_line(error)}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(divide(Path(sys.argv[1])))
