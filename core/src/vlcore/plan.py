"""What a training will take, known before any weight is read: parameters, steps, memory of a GPU.

Shapes come from the model on the meta device with its adapters in, lengths from the forecast of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlcore.errors import UsageError
from vlcore.footprint import (
    FLOAT,
    Memory,
    PartSize,
    RowSize,
    count_parts,
    find_stack,
    measure_activations,
    measure_weights,
)
from vlcore.lora import add_adapters
from vlcore.model import build_frontend
from vlcore.placement import Placement, count_positions, place_model, read_limits
from vlcore.resolve import resolve_model
from vlcore.train.data import load_data
from vlcore.train.divide import PRESETS
from vlcore.train.launch import count_processes
from vlcore.train.learner import freeze_parts
from vlcore.train.settings import resolve_settings
from vlcore.weights import choose_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlcore.config import SftConfig
    from vlcore.model import Frontend
    from vlcore.resolve import Checkpoint
    from vlcore.train.data import Selection


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training will take.

    Attributes:
        parts: the model's parts.
        rows: rows to train on, or packs of them.
        lengths: tokens of the median row, of the 99th percentile and of the longest.
        steps: optimizer steps.
        processes: how many train together.
        dtype: what is computed in.
        memory: of one GPU.
        limit: bytes that a GPU has; 0 when that is not known.
        advice: settings that lower the memory, each with the bytes it would then be.
        placement: the devices of a model that one process spreads over several.
    """

    parts: tuple[PartSize, ...]
    rows: int
    lengths: tuple[int, int, int]
    steps: int
    processes: int
    dtype: str
    memory: Memory
    limit: int = 0
    advice: tuple[tuple[str, int], ...] = ()
    placement: Placement | None = None

    @property
    def fits(self) -> bool:
        """Whether a GPU has enough, as far as that is known."""
        return not self.limit or self.memory.total <= self.limit


def make_plan(config: SftConfig) -> Plan:
    """The plan of a training with these settings.

    Args:
        config: as `sft` takes it; sizes of GPUs come from `device_max_memory`, else from those that are there.

    Raises:
        UsageError: for settings that do not go together, or without rows.
        DataError: for rows that cannot be used.
    """
    processes = count_processes()
    config = resolve_settings(config, processes)
    if not config.forecast:
        raise UsageError("plan with forecast false", "lengths are what it plans with", "leave forecast out")
    checkpoint = resolve_model(config)
    frontend = build_frontend(checkpoint, config.family_options)
    data = load_data(frontend, config)
    bare = checkpoint.call("load_model", config=replace(config, device_map="meta", quantization_bit=0))
    model = add_trained(checkpoint, bare, config)
    sizes = measure_rows(frontend, data, model, config)
    rows = len(data.train) if not config.packing else math.ceil(lengths_of(data).sum() / config.max_length)
    limits = list(read_limits(config.device_max_memory).values())
    memory = measure_memory(model, checkpoint, config, sizes, processes)
    several = len(limits) > 1 and processes == 1 and config.device_map == "auto"
    dtype = choose_dtype(config.dtype, checkpoint.config)
    return Plan(
        parts=count_parts(model, checkpoint.parts),
        rows=rows,
        lengths=read_lengths(data),
        steps=count_steps(config, rows, processes),
        processes=processes,
        dtype=str(dtype).removeprefix("torch."),
        memory=memory,
        limit=sum(limits) if several else min(limits, default=0),
        advice=tuple(sorted(list_advice(model, checkpoint, config, sizes, processes), key=lambda pair: pair[1])),
        placement=place_model(bare, checkpoint.parts, config, dtype) if several else None,
    )


def add_trained(checkpoint: Checkpoint, skeleton: PreTrainedModel, config: SftConfig) -> PreTrainedModel:
    """The model on the meta device with its adapters in, or with its parts frozen."""
    if config.sft_type == "lora":
        plain = replace(config, init_lora_weights="default")
        return add_adapters(checkpoint, skeleton, plain)  # type: ignore[return-value]
    flags = {"vision": config.freeze_vit, "language": config.freeze_llm, "projector": config.freeze_aligner}
    freeze_parts(checkpoint, skeleton, [part for part, frozen in flags.items() if frozen])
    return skeleton


def lengths_of(data: Selection) -> Any:
    """Tokens of each training row; a plan always has them."""
    assert data.lengths is not None
    return data.lengths


def read_lengths(data: Selection) -> tuple[int, int, int]:
    """Tokens of the median row, of the 99th percentile and of the longest."""
    import numpy

    median, long, most = numpy.percentile(lengths_of(data), [50, 99, 100], method="higher").tolist()
    return int(median), int(long), int(most)


def measure_rows(frontend: Frontend, data: Selection, model: PreTrainedModel, config: SftConfig) -> list[RowSize]:
    """The size of a median batch and of a long one: of rows, padded to the longest, or of a pack."""
    import numpy

    lengths = lengths_of(data)
    sizes = []
    for wanted in read_lengths(data)[:2]:
        row = data.train[int(numpy.flatnonzero(lengths == wanted)[0])]
        layout = frontend.plan(row.messages, train=True, loss_on=config.loss_on)
        trained = sum(label >= 0 for label in layout.labels)
        patches = count_positions(model, layout.plans)
        times = config.max_length / len(layout) if config.packing else 1
        sizes.append(RowSize(
            int(times * len(layout)) * config.batch_size, int(times * trained) * config.batch_size,
            int(times * patches) * config.batch_size))
    return sizes


def measure_memory(
    model: PreTrainedModel, checkpoint: Checkpoint, config: SftConfig, sizes: list[RowSize], processes: int
) -> Memory:
    """Bytes on one GPU; DeepSpeed's presets divide or move away what they say.

    DDP keeps a copy of the gradients in the buckets that processes exchange. Under ZeRO-3 a GPU has its share of
    the weights and the two blocks that are being computed.
    """
    parts = checkpoint.parts
    width = choose_dtype(config.dtype, checkpoint.config).itemsize
    trained = sum(part.trained for part in count_parts(model, parts))
    weights = measure_weights(model, config.quantization_bit, width)
    gradients, optimizer = FLOAT * trained, 2 * FLOAT * trained
    stage = 3 if config.fsdp else int(PRESETS.get(config.deepspeed, {}).get("stage", 0))
    if stage:
        gradients, optimizer = gradients // processes, optimizer // processes
        optimizer = 0 if "offload" in config.deepspeed + config.fsdp else optimizer
    elif processes > 1:
        gradients *= 2
    if stage == 3:
        blocks = max(find_stack(model, parts, "language").blocks, 1)
        weights = weights // processes + 2 * weights // blocks
    median, long = (measure_activations(model, parts, config, size, width) for size in sizes)
    return Memory(weights, gradients, optimizer, median, long)


def count_steps(config: SftConfig, rows: int, processes: int) -> int:
    """Optimizer steps, counted as the training loop does: a last update of an epoch may be smaller."""
    if config.max_steps > 0:
        return config.max_steps
    batches = math.ceil(rows / (config.batch_size * processes))
    updates = max(math.ceil(batches / (config.gradient_accumulation_steps or 1)), 1)
    return math.ceil(config.num_train_epochs * updates)


def list_advice(
    model: PreTrainedModel, checkpoint: Checkpoint, config: SftConfig, sizes: list[RowSize], processes: int
) -> Iterator[tuple[str, int]]:
    """Settings that lower the memory of a GPU, with the bytes that it would then take."""
    now = measure_memory(model, checkpoint, config, sizes, processes).total
    single = [RowSize(*(count // config.batch_size for count in (s.tokens, s.trained, s.patches))) for s in sizes]
    choices: dict[str, tuple[dict[str, Any], list[RowSize]]] = {
        "--gradient_checkpointing true": ({"gradient_checkpointing": True}, sizes),
        "--batch_size 1 (more --gradient_accumulation_steps keep the update)": ({"batch_size": 1}, single),
    }
    if config.sft_type == "lora":
        choices["--quantization_bit 4"] = ({"quantization_bit": 4, "init_lora_weights": "default", "use_rslora": False,
                                            "use_dora": False}, sizes)
    if processes > 1:
        choices |= {f"--deepspeed {name}": ({"deepspeed": name}, sizes) for name in PRESETS}
    for text, (changes, rows) in choices.items():
        then = measure_memory(model, checkpoint, replace(config, **changes), rows, processes).total
        if then < 0.98 * now:
            yield text, then
    if config.sft_type == "full":
        yield "--sft_type lora", estimate_lora(checkpoint, config, sizes, processes)


def estimate_lora(checkpoint: Checkpoint, config: SftConfig, sizes: list[RowSize], processes: int) -> int:
    """Bytes of a GPU when adapters are trained instead of all weights."""
    skeleton = checkpoint.call("load_model", config=replace(config, device_map="meta"))
    lora = replace(config, sft_type="lora")
    return measure_memory(add_trained(checkpoint, skeleton, lora), checkpoint, lora, sizes, processes).total
