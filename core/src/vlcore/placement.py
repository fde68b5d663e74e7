"""Where a model's modules go when one process has several GPUs: a map that counts what pictures need, too.

The vision tower works on all tiles of a row at once. Its weights are small and its activations are not, so the
device that holds it is given fewer layers of the language model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import UsageError, suggest_near
from vlcore.table import align

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vlcore.config import LoadConfig
    from vlcore.family import Parts
    from vlcore.media import Plan

#: Tiles that the vision tower is expected to work on at once: a picture of the largest grid with its thumbnail.
TILES = 13
#: Part of a device that weights may fill when nothing else is said.
FILL = 0.9
Device = int | str


@dataclass(frozen=True, slots=True)
class Share:
    """What one device is given.

    Attributes:
        device: its number.
        modules: names of the modules on it; everything below them is there, too.
        weights: bytes of their weights.
        reserved: bytes kept free for the activations of pictures.
        limit: bytes it may take altogether.
    """

    device: Device
    modules: tuple[str, ...]
    weights: int
    reserved: int
    limit: int


@dataclass(frozen=True, slots=True)
class Placement:
    """The share of every device."""

    shares: tuple[Share, ...]

    @property
    def device_map(self) -> dict[str, Device]:
        """The device of each module, as transformers takes it."""
        return {module: share.device for share in self.shares for module in share.modules}

    def describe(self) -> list[str]:
        """A table, a line a device."""
        rows: list[tuple[str, ...]] = [("device", "weights", "for pictures", "limit", "modules")]
        for share in self.shares:
            sizes = (write_size(size) for size in (share.weights, share.reserved, share.limit))
            rows.append((str(share.device), *sizes, shorten(share.modules)))
        return align(rows, len(rows[0]))


def place_model(skeleton: PreTrainedModel, parts: Parts, config: LoadConfig, dtype: torch.dtype) -> Placement:
    """A placement in which no block is split and no device takes more than its limit.

    Args:
        skeleton: the model on the meta device.
        parts: which module belongs to which part.
        config: `device_max_memory`, or the memory of the GPUs that are there; `quantization_bit`.
        dtype: of the weights.

    Raises:
        UsageError: when the devices together are too small.
    """
    from accelerate.utils import infer_auto_device_map

    limits = read_limits(config.device_max_memory)
    kept = measure_pictures(skeleton, parts, dtype)
    sizes = measure_modules(skeleton, dtype, config.quantization_bit)
    total = sizes[""]
    if total + kept > sum(limits.values()):
        raise UsageError(
            f"{len(limits)} devices of {write_size(sum(limits.values()))}",
            f"the model takes {write_size(total)} and its pictures {write_size(kept)}",
            "give more or larger devices, or --quantization_bit 4")
    blocks = list_block_classes(skeleton)
    largest = max(sizes[name] for name, module in skeleton.named_modules() if type(module).__name__ in blocks)
    allowed = balance(limits, total, kept, largest)
    found = infer_auto_device_map(
        skeleton, max_memory={**allowed, "cpu": total}, no_split_module_classes=blocks,
        dtype=quantized_dtype(config.quantization_bit) or dtype)
    if any(device not in limits for device in found.values()):
        raise UsageError(
            f"{len(limits)} devices of {write_size(sum(limits.values()))}",
            f"blocks are never split, and so {write_size(total)} do not fit beside {write_size(kept)} for pictures",
            "give more or larger devices, or --quantization_bit 4")
    first = min(limits)
    return Placement(tuple(
        Share(device, modules, sum(sizes[name] for name in modules), kept if device == first else 0, limits[device])
        for device in limits
        for modules in [tuple(name for name, place in found.items() if place == device)]
    ))


def balance(limits: Mapping[Device, int], total: int, kept: int, largest: int) -> dict[Device, int]:
    """Bytes of weights for each device, so that all are about equally full, pictures on the first counted.

    >>> balance({0: 100, 1: 100}, total=60, kept=40, largest=5)
    {0: 15, 1: 100}
    """
    fill = (total + kept) / sum(limits.values())
    first, last = min(limits), max(limits)
    room = {device: min(limit, int(limit * fill) + largest) for device, limit in limits.items()}
    room[last] = limits[last]  # what rounding to whole blocks leaves over
    room[first] = max(room[first] - kept, 0)
    return room


def read_limits(given: Sequence[str]) -> dict[Device, int]:
    """Bytes each device may take: as given, such as `15GB`, else 90 % of each GPU's free memory.

    Raises:
        UsageError: for a size that is none.
    """
    import torch
    from accelerate.utils import convert_file_size_to_int

    if not given:
        free = [torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())]
        return {number: int(FILL * size) for number, size in enumerate(free)}
    limits: dict[Device, int] = {}
    for number, text in enumerate(given):
        try:
            limits[number] = convert_file_size_to_int(text)
        except ValueError as error:
            raise UsageError(f"device_max_memory {text}", "it is not a size", "write 15GB or 500MB") from error
    return limits


def measure_pictures(skeleton: PreTrainedModel, parts: Parts, dtype: torch.dtype) -> int:
    """Bytes that the vision tower needs beside its weights for the tiles of one picture.

    A block holds its input, what it adds to it, and the inner width of its feed-forward twice; with recomputation,
    training keeps the input of every block besides.
    """
    vision: Any = getattr(skeleton.config, "vision_config", None)
    positions = TILES * count_patches(skeleton)
    if not positions:
        return 0
    layers = getattr(vision, "num_hidden_layers", 1)
    inner = getattr(vision, "intermediate_size", 4 * vision.hidden_size)
    return int(positions * ((layers + 6) * vision.hidden_size + 2 * inner) * dtype.itemsize)


def count_patches(skeleton: PreTrainedModel) -> int:
    """Positions of one tile in the vision tower; 0 when the configuration does not tell."""
    vision = getattr(skeleton.config, "vision_config", None)
    if not all(hasattr(vision, name) for name in ("image_size", "patch_size", "hidden_size")):
        return 0
    sides = (getattr(vision, name) for name in ("image_size", "patch_size"))
    image, patch = (side[0] if isinstance(side, list | tuple) else side for side in sides)
    return int(image // patch) ** 2 + 1


def count_positions(skeleton: PreTrainedModel, plans: Sequence[Plan]) -> int:
    """Positions in the vision tower of planned media: those of their tiles, and at least one for each that goes on."""
    vision = getattr(skeleton.config, "vision_config", None)
    merged = int(getattr(vision, "spatial_merge_size", 1)) ** 2
    tiles = sum(sum(plan.tiles) for plan in plans)
    return max(tiles * count_patches(skeleton), merged * sum(plan.tokens for plan in plans))


def measure_modules(skeleton: PreTrainedModel, dtype: torch.dtype, bits: int) -> dict[str, int]:
    """Bytes of the weights in and below each module, by name; a tied weight counts once."""
    from accelerate.utils import compute_module_sizes

    sizes: dict[str, int] = compute_module_sizes(skeleton, dtype=quantized_dtype(bits) or dtype)
    return sizes


def quantized_dtype(bits: int) -> Any:
    """What accelerate counts weights of 4 or 8 bits by; None for 0."""
    import torch
    from accelerate.utils import CustomDtype

    return {4: CustomDtype.INT4, 8: torch.int8}.get(bits)


def list_block_classes(skeleton: PreTrainedModel) -> list[str]:
    """Names of the classes of which a model has several in a row, and of those its author says not to split."""
    from torch.nn import ModuleList

    rows = [module for module in skeleton.modules() if isinstance(module, ModuleList)]
    blocks = {type(block).__name__ for row in rows for block in row}
    return sorted(blocks | set(skeleton._no_split_modules or ()))


def read_device_map(path: str, skeleton: PreTrainedModel) -> dict[str, Device]:
    """The device of each module from a JSON file, `{"language_model": 0, ...}`.

    Raises:
        UsageError: when the file is none, a name is no module, a device is none, or a weight has no device.
    """
    try:
        read = json.loads(Path(path).expanduser().read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        why = f"it cannot be read ({error})"
        raise UsageError(f"device_map_config_path {path}", why, "give a JSON file") from error
    if not isinstance(read, dict):
        raise UsageError(f"device_map_config_path {path}", "it is not an object", 'write {"MODULE": 0, ...}')
    known = {name for name, _ in skeleton.named_modules()} | {name for name, _ in skeleton.named_parameters()}
    for name, device in read.items():
        if name not in known:
            raise UsageError(f"{path}: {name}", "the model has no such module", suggest_near(name, known))
        if not isinstance(device, int) and device not in ("cpu", "disk"):
            raise UsageError(f"{path}: {name}", f"{device!r} is no device", "write a GPU's number, cpu or disk")
    for name, _ in skeleton.named_parameters():
        if not any(not key or name == key or name.startswith(key + ".") for key in read):
            raise UsageError(f"{path}", f"{name} has no device", "name it, or a module that it is in")
    return read


def write_size(count: int) -> str:
    """Bytes for people.

    >>> write_size(15_000_000_000)
    '15.0 GB'
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def shorten(modules: Sequence[str]) -> str:
    """Names of modules with neighbours that differ in a number joined.

    >>> shorten(["model.vision", "model.layers.0", "model.layers.1", "model.layers.2"])
    'model.vision, model.layers.0-2'
    """
    runs: list[tuple[str, int, int] | tuple[str]] = []
    for name in modules:
        stem, _, tail = name.rpartition(".")
        last = runs[-1] if runs else ("",)
        if not tail.isdecimal():
            runs.append((name,))
        elif len(last) == 3 and last[0] == stem and last[2] + 1 == int(tail):
            runs[-1] = (stem, last[1], int(tail))
        else:
            runs.append((stem, int(tail), int(tail)))
    return ", ".join(
        run[0] if len(run) == 1 else f"{run[0]}.{run[1]}" + (f"-{run[2]}" if run[2] > run[1] else "") for run in runs)
