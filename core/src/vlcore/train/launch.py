"""Several processes: a command starts itself once for each through torchrun, and DeepSpeed's presets.

`NPROC_PER_NODE`, `NNODES`, `NODE_RANK`, `MASTER_ADDR` and `MASTER_PORT` say how many and where.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlcore.config import SftConfig
from vlcore.errors import ExtraMissing, UsageError, suggest_near

#: Numbers that must be whole and positive when they are set.
COUNTS = ("NPROC_PER_NODE", "NNODES")
_CPU = {"device": "cpu", "pin_memory": True}
#: `zero_optimization` of DeepSpeed for each preset.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default-zero2": {"stage": 2},
    "default-zero2-offload": {"stage": 2, "offload_optimizer": _CPU},
    "default-zero3": {"stage": 3},
    "default-zero3-offload": {"stage": 3, "offload_optimizer": _CPU, "offload_param": _CPU},
}


def needs_processes(config: SftConfig) -> bool:
    """Whether this process must start those that train: several are asked for, or DeepSpeed is, and this is none.

    Raises:
        UsageError: for a number of processes that is none.
    """
    if "RANK" in os.environ:
        return False
    return bool(config.deepspeed) or any(_read_count(name) > 1 for name in COUNTS)


def hush_others() -> bool:
    """Keeps progress bars of all processes but the first away; returns whether this is the first."""
    is_first = os.environ.get("RANK", "0") == "0"
    if not is_first:
        os.environ["TQDM_DISABLE"] = "1"  # tqdm reads it when it is imported
    return is_first


def start_processes(arguments: Sequence[str]) -> int:
    """Runs `vlcore` with these arguments once a process; returns the exit code, 0 when all of them end well."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    return subprocess.run(list_command(arguments), env=environment, check=False).returncode


def list_command(arguments: Sequence[str]) -> list[str]:
    """The torchrun command: with a free port on one machine, else with the address that is given."""
    nodes = _read_count("NNODES")
    places = {"node_rank": "NODE_RANK", "master_addr": "MASTER_ADDR", "master_port": "MASTER_PORT"}
    given = [f"--{option}={os.environ[name]}" for option, name in places.items() if os.environ.get(name)]
    where = [f"--nnodes={nodes}", *given] if nodes > 1 or given else ["--standalone"]
    run = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={_read_count('NPROC_PER_NODE')}"]
    return [*run, *where, "-m", "vlcore.cli", *arguments]


def read_deepspeed(config: SftConfig) -> dict[str, Any] | None:
    """DeepSpeed's configuration that `--deepspeed` names; None when it names none.

    Raises:
        UsageError: when there is no such preset or file.
        ExtraMissing: when DeepSpeed is not installed.
    """
    import importlib.util

    if not config.deepspeed:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise ExtraMissing(f"--deepspeed {config.deepspeed}", "deepspeed", "deepspeed")
    read = _fill_preset(config) if config.deepspeed in PRESETS else _read_file(config.deepspeed)
    # Left to follow from the others: what Trainer would write here is wrong for several processes on a CPU.
    return {key: value for key, value in read.items() if (key, value) != ("train_batch_size", "auto")}


def _fill_preset(config: SftConfig) -> dict[str, Any]:
    return {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "zero_optimization": dict(PRESETS[config.deepspeed]),
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "zero_force_ds_cpu_optimizer": False,
    }


def _read_file(name: str) -> dict[str, Any]:
    path = Path(name).expanduser()
    if not path.is_file():
        near = suggest_near(name, PRESETS)
        raise UsageError(f"deepspeed {name}", "there is no such preset or file", near)
    try:
        read = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise UsageError(f"deepspeed {name}", f"it is not JSON ({error})", "correct the file") from error
    return dict(read)


def _read_count(name: str) -> int:
    text = os.environ.get(name) or "1"
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{name}={text}", "it is a number of processes or machines", "set it to 1 or more")
    return int(text)
