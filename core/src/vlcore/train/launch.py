"""Several processes: a command starts itself once for each through torchrun, and says what ended them.

`NPROC_PER_NODE`, `NNODES`, `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT` say how many and where. Three kinds of
processes take part: the command, which the user started; torchrun, as this module runs it; and those that train.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import psutil

from vlcore.config import SftConfig
from vlcore.errors import UsageError

#: Numbers that must be whole and positive when they are set.
COUNTS = ("NPROC_PER_NODE", "NNODES")
#: Names the folder in which processes that train leave their errors for the command.
ERROR_FOLDER = "VLCORE_ERROR_FOLDER"
#: Parts of the errors of processes that only noticed the end of another one.
LOST = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "gloo/transport", "NCCL")


@dataclass(frozen=True, slots=True)
class Failure:
    """What ended a process.

    Attributes:
        text: what is said of it.
        code: exit code of the command.
        time: when it was written, in seconds.
    """

    text: str
    code: int
    time: float = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether it follows from the end of another process."""
        return any(part in self.text for part in LOST)


def needs_processes(config: SftConfig) -> bool:
    """Whether this process must start those that train: several are asked for, or a divided model is, and this is none.

    Raises:
        UsageError: for a number of processes that is none.
    """
    divided = bool(config.deepspeed or config.fsdp) and "RANK" not in os.environ
    return divided or asks_for_processes()


def asks_for_processes() -> bool:
    """Whether the environment asks for several processes, and this is none of them.

    Raises:
        UsageError: for a number of processes that is none.
    """
    return "RANK" not in os.environ and any(_read_count(name) > 1 for name in COUNTS)


def count_processes() -> int:
    """How many processes train together, as the environment asks for.

    Raises:
        UsageError: for a number that is none.
    """
    return _read_count("NPROC_PER_NODE") * _read_count("NNODES")


def hush_others() -> bool:
    """Keeps progress bars and warnings of all processes but the first away; returns whether this is the first."""
    import warnings

    is_first = os.environ.get("RANK", "0") == "0"
    if not is_first:
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
        warnings.simplefilter("ignore")
    return is_first


def start_processes(arguments: Sequence[str], device_map: str = "auto") -> tuple[int, str]:
    """Runs `vlcore` with these arguments once a process.

    What asks this process to stop is passed on to those that train and not to torchrun, which would give them
    half a minute to save.

    Args:
        arguments: of the command.
        device_map: where the model goes; on GPUs there can be no more processes than these.

    Returns:
        The exit code, 0 when all of them ended well, and what is said of the error; empty when it has been said.

    Raises:
        UsageError: when several machines are asked for and one of them cannot be told from the others.
    """
    with TemporaryDirectory(prefix="vlcore-") as folder:
        environment = {"OMP_NUM_THREADS": "1", **os.environ, ERROR_FOLDER: folder}
        # In a session of its own, Ctrl-C in a terminal does not reach torchrun either.
        started = subprocess.Popen(list_command(arguments, device_map), env=environment, start_new_session=True)
        code, stopped = wait_for(started)
        failure = choose_failure(read_failures(Path(folder)))
    if not code:
        return 0, ""
    code = 128 + stopped if stopped else failure.code if failure else code
    return code, failure.text if failure else ""


def wait_for(started: subprocess.Popen[bytes]) -> tuple[int, int]:
    """The exit code of torchrun, and the number of the signal that was passed on; 0 for none."""
    stopped = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = number
        for child in psutil.Process(started.pid).children():
            child.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return started.wait(), stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def list_command(arguments: Sequence[str], device_map: str = "auto") -> list[str]:
    """The command that runs torchrun: with a free port on one machine, else with the address that is given.

    Raises:
        UsageError: as of `start_processes`.
    """
    nodes = _read_count("NNODES")
    places = {"node_rank": "NODE_RANK", "master_addr": "MASTER_ADDR", "master_port": "MASTER_PORT"}
    given = [f"--{option}={os.environ[name]}" for option, name in places.items() if os.environ.get(name)]
    missing = [name for name in ("NODE_RANK", "MASTER_ADDR") if not os.environ.get(name)]
    if nodes > 1 and missing:
        raise UsageError(f"NNODES={nodes} without {' and '.join(missing)}", "the machines would not find each other",
                         "set NODE_RANK to 0, 1 and so on, and MASTER_ADDR to the address of the first")
    where = [f"--nnodes={nodes}", *given] if nodes > 1 or given else ["--standalone"]
    run = [sys.executable, "-m", __name__, device_map, f"--nproc_per_node={_read_count('NPROC_PER_NODE')}"]
    return [*run, *where, "-m", "vlcore.cli", *arguments]


def run_torchrun(device_map: str, options: Sequence[str]) -> int:
    """Runs torchrun in this process, without the pages that it writes about an error; returns the exit code.

    Args:
        device_map: as of `start_processes`.
        options: of torchrun.
    """
    import logging

    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    parsed = parse_args(list(options))  # type: ignore[no-untyped-call]
    asked, gpus = int(parsed.nproc_per_node), torch.cuda.device_count()
    if device_map != "cpu" and 0 < gpus < asked:
        refused = UsageError(f"NPROC_PER_NODE={asked}", f"this machine has {gpus} GPUs, and each process takes one",
                             f"set it to {gpus}, or give --device_map cpu")
        leave_failure(str(refused), refused.exit_code)
        return refused.exit_code
    if "--debug" not in options:
        logging.disable(logging.ERROR)
    try:
        run(parsed)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM:
                name = signal.Signals(-failure.exitcode).name
                text = (f"process {rank}: it was ended by {name}; what was written before is whole, and memory that "
                        "ran out is the usual reason: vlcore plan says how much a training needs")
                leave_failure(text, 128 - failure.exitcode)
        return 1
    return 0


def leave_failure(text: str, code: int) -> bool:
    """Leaves an error for the command that started this process; returns whether there is one."""
    folder = os.environ.get(ERROR_FOLDER)
    if not folder or not Path(folder).is_dir():
        return False
    part = Path(folder, f".{os.getpid()}-{time.time_ns()}")
    part.write_text(json.dumps(asdict(Failure(text, code, time.time()))), encoding="utf8")
    part.rename(part.with_name(f"{part.name[1:]}.json"))
    return True


def read_failures(folder: Path) -> list[Failure]:
    """What ended processes, in no order."""
    return [Failure(**json.loads(path.read_text(encoding="utf8"))) for path in folder.glob("[!.]*.json")]


def choose_failure(failures: Iterable[Failure]) -> Failure | None:
    """The one that others follow from; None without any.

    >>> choose_failure([Failure("RuntimeError: Connection closed by peer", 1, 1.0), Failure("a row", 5, 2.0)]).code
    5
    """
    return min(failures, key=lambda failure: (failure.is_lost, failure.time), default=None)


def _read_count(name: str) -> int:
    text = os.environ.get(name) or "1"
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{name}={text}", "it is a number of processes or machines", "set it to 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(run_torchrun(sys.argv[1], sys.argv[2:]))
