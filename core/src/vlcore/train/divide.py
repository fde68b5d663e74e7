"""Weights, gradients and optimizer states divided among the processes: DeepSpeed's ZeRO and PyTorch's FSDP2."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import ExtraMissing, UsageError, suggest_near

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, TrainingArguments

    from vlcore.config import SftConfig, TrainConfig

_CPU = {"device": "cpu", "pin_memory": True}
#: `zero_optimization` of DeepSpeed for each preset.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default-zero2": {"stage": 2},
    "default-zero2-offload": {"stage": 2, "offload_optimizer": _CPU},
    "default-zero3": {"stage": 3},
    "default-zero3-offload": {"stage": 3, "offload_optimizer": _CPU, "offload_param": _CPU},
}
#: What Trainer is told of FSDP2 for each value of `--fsdp`.
SHARDINGS: Mapping[str, Mapping[str, Any]] = {
    "full_shard": {"reshard_after_forward": True},
    "full_shard-offload": {"reshard_after_forward": True, "cpu_offload": True},
}


def check_division(config: SftConfig) -> None:
    """Refuses what no process could be started with.

    Raises:
        UsageError: for an unknown preset, file or value of `--fsdp`, and for settings that do not go together.
        ExtraMissing: when DeepSpeed is not installed.
    """
    if config.deepspeed and config.fsdp:
        raise UsageError(f"deepspeed {config.deepspeed} with fsdp {config.fsdp}", "both divide the model",
                         "leave one of them out")
    divided = read_deepspeed(config) or {}
    read_fsdp(config)
    stage = divided.get("zero_optimization", {}).get("stage", 0)
    if config.quantization_bit and (config.fsdp or stage == 3):
        name = f"fsdp {config.fsdp}" if config.fsdp else f"deepspeed {config.deepspeed}"
        raise UsageError(
            f"{name} with quantization_bit {config.quantization_bit}", "quantized weights cannot be divided",
            "use --deepspeed default-zero2, or leave one of them out")


def read_deepspeed(config: TrainConfig) -> dict[str, Any] | None:
    """DeepSpeed's configuration that `--deepspeed` names; None when it names none.

    Raises:
        UsageError: when there is no such preset or file.
        ExtraMissing: when DeepSpeed is not installed.
    """
    if not config.deepspeed:
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise ExtraMissing(f"--deepspeed {config.deepspeed}", "deepspeed", "deepspeed")
    read = _fill_preset(config) if config.deepspeed in PRESETS else _read_file(config.deepspeed)
    # Left to follow from the others: what Trainer would write here is wrong for several processes on a CPU.
    return {key: value for key, value in read.items() if (key, value) != ("train_batch_size", "auto")}


def read_fsdp(config: TrainConfig) -> dict[str, Any] | None:
    """Trainer's `fsdp_config` that `--fsdp` names; None when it names none.

    Raises:
        UsageError: when there is no such value.
    """
    if not config.fsdp:
        return None
    if config.fsdp not in SHARDINGS:
        near = suggest_near(config.fsdp, SHARDINGS)
        raise UsageError(f"fsdp {config.fsdp}", "the model cannot be divided so", near)
    # One file of whole optimizer states, whatever the number of processes that go on with it.
    return {"version": 2, "state_dict_type": "FULL_STATE_DICT", **SHARDINGS[config.fsdp]}


def prepare_deepspeed(config: TrainConfig) -> None:
    """Lets DeepSpeed do without what it would compile for a CPU."""
    import torch

    if config.deepspeed and not torch.cuda.is_available():
        import deepspeed

        # Gloo does the same as this shared memory, which takes a compiler and a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def prepare_fsdp(arguments: TrainingArguments, model: PreTrainedModel) -> None:
    """Tells FSDP which modules to gather at once: the blocks of all towers.

    transformers' own list often leaves out the blocks of one tower.
    """
    from torch.nn import ModuleList

    if arguments.fsdp:
        rows = [module for module in model.modules() if isinstance(module, ModuleList)]
        blocks = [block for row in rows for block in row if any(True for _ in block.children())]
        arguments.fsdp_plugin_args["transformer_cls_names_to_wrap"] = sorted({type(block).__name__ for block in blocks})


def is_divided(config: TrainConfig) -> bool:
    """Whether each process has only a share of every weight, which is FSDP's and ZeRO-3's way."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return bool(config.fsdp) or bool(is_deepspeed_zero3_enabled())


@contextmanager
def gather_weights(model: PreTrainedModel, first: bool) -> Iterator[None]:
    """A scope in which the first process has the weights whole, on the CPU; all processes call this together.

    Of a model with adapters only what learns is gathered. Weights come one by one, so that no GPU holds them all.

    Args:
        model: the model.
        first: whether this is the first process.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # after an evaluation some are still whole
    adapted = hasattr(model, "peft_config")
    wanted = [
        (module, name, parameter) for module in model.modules() for name, parameter in module._parameters.items()
        if parameter is not None and _is_share(parameter) and (parameter.requires_grad or not adapted)
    ]
    whole: dict[int, torch.nn.Parameter] = {}
    for _, _, parameter in wanted:
        if id(parameter) not in whole:
            whole[id(parameter)] = _gather(parameter, first)
    for module, name, parameter in wanted if first else ():
        module._parameters[name] = whole[id(parameter)]
    try:
        yield
    finally:
        for module, name, parameter in wanted if first else ():
            module._parameters[name] = parameter


def _is_share(parameter: torch.nn.Parameter) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


def _gather(parameter: Any, keep: bool) -> torch.nn.Parameter:
    """The whole of a weight on the CPU, where it is kept; else an empty one."""
    import torch

    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            held = parameter.detach().to("cpu", copy=True) if keep else torch.empty(0)
    else:
        full = parameter.detach().full_tensor()
        held = full.to("cpu", copy=True) if keep else torch.empty(0)
    return torch.nn.Parameter(held, requires_grad=parameter.requires_grad)


def _fill_preset(config: TrainConfig) -> dict[str, Any]:
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
    if not isinstance(read, dict):
        raise UsageError(f"deepspeed {name}", "it is not an object", "write what DeepSpeed's documentation describes")
    return read
