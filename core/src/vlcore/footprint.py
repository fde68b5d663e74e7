"""What a training takes on a GPU, counted from shapes alone.

Counted is what this project's training keeps: weights that learn in float32 with AdamW's two moments beside them,
all others in the dtype that is computed in, or quantized.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vlcore.config import SftConfig
    from vlcore.family import Parts

#: What PEFT puts in front of the native model's names.
PEFT_PREFIX = "base_model.model."
#: Bytes of a float32.
FLOAT = 4
#: Bytes that a process takes on a GPU whatever it computes.
OVERHEAD = 10**9
#: Bytes of a weight in 4 bits, its scales quantized, too: Dettmers et al. 2023, arXiv:2305.14314, section 3.
NF4 = 0.5 + 0.127 / 8


@dataclass(frozen=True, slots=True)
class PartSize:
    """Parameters of a part of the model, and how many of them are trained."""

    name: str
    parameters: int
    trained: int


@dataclass(frozen=True, slots=True)
class RowSize:
    """What of a row its memory depends on.

    Attributes:
        tokens: its length.
        trained: tokens that count in the loss.
        patches: positions in the vision tower, of all its tiles together.
    """

    tokens: int
    trained: int
    patches: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest GPU.

    Attributes:
        weights: those it holds.
        gradients: of what is trained.
        optimizer: both moments of AdamW.
        median: what a batch of median rows keeps for the backward pass.
        long: the same for a batch of long rows, the 99th percentile.
    """

    weights: int
    gradients: int
    optimizer: int
    median: int
    long: int

    @property
    def total(self) -> int:
        """What the GPU must have: long rows, and what CUDA, its libraries and the allocator's gaps take."""
        return self.weights + self.gradients + self.optimizer + self.long + OVERHEAD


@dataclass(frozen=True, slots=True)
class Stack:
    """The blocks of a part.

    Attributes:
        blocks: how many there are.
        hidden: numbers a position between blocks.
        inside: numbers a position that the backward pass needs of one block.
        learns: whether anything in them is trained.
    """

    blocks: int
    hidden: int
    inside: int
    learns: bool

    def keep(self, positions: int, width: int, recompute: bool) -> int:
        """Bytes kept for these positions between the forward and the backward pass.

        With recomputation, the input of every block and the inside of one; without, the inside of all.
        """
        if recompute:
            return (self.blocks * self.hidden + self.inside) * positions * width
        return self.blocks * self.inside * positions * width


def count_parts(model: PreTrainedModel, parts: Parts) -> tuple[PartSize, ...]:
    """Parameters of each part; weights that PEFT keeps beside the copy that is trained are left out."""
    counts = {part: [0, 0] for part in ("vision", "projector", "language")}
    for name, parameter in model.named_parameters():
        if ".original_module." not in name:
            count = counts[parts.part_of(name.removeprefix(PEFT_PREFIX)) or "language"]
            count[0] += count_elements(parameter)
            count[1] += count_elements(parameter) if parameter.requires_grad else 0
    return tuple(PartSize(part, total, trained) for part, (total, trained) in counts.items())


def count_elements(parameter: torch.nn.Parameter) -> int:
    """Numbers in a parameter as the model has it, though it be packed into 4 bits or shared out by ZeRO-3."""
    packed = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape) if packed else int(getattr(parameter, "ds_numel", parameter.numel()))


def measure_weights(model: PreTrainedModel, bits: int, width: int) -> int:
    """Bytes of all weights.

    Args:
        model: on the meta device, adapters in.
        bits: of quantized linear layers; 0 for none.
        width: bytes of a number in the dtype that is computed in.
    """
    head: Any = model.get_output_embeddings()
    packed = {id(layer.weight) for _, layer in list_linear(model) if layer is not head}
    size = 0.0
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Mixed precision keeps a copy in the dtype that is computed in.
            size += parameter.numel() * (FLOAT + (width if width < FLOAT else 0))
        else:
            size += parameter.numel() * ({4: NF4, 8: 1.0}.get(bits, width) if id(parameter) in packed else width)
    return int(size)


def measure_activations(model: PreTrainedModel, parts: Parts, config: SftConfig, row: RowSize, width: int) -> int:
    """Bytes that a row needs between the forward and the backward pass.

    A vision tower in which nothing is trained keeps nothing; while it runs it needs the inside of one block.

    Args:
        model: on the meta device, adapters in.
        parts: which module belongs to which part.
        config: whether activations are recomputed.
        row: its size.
        width: bytes of a number in the dtype that is computed in.
    """
    recompute = config.gradient_checkpointing
    language, vision = find_stack(model, parts, "language"), find_stack(model, parts, "vision")
    kept = language.keep(row.tokens, width, recompute)
    if vision.learns:
        kept += vision.keep(row.patches, width, recompute)
    vocabulary = int(model.config.get_text_config().vocab_size)
    # The logits and their gradient; those that are trained on and their gradient in float32 besides.
    logits = vocabulary * (2 * row.tokens * width + 2 * row.trained * FLOAT)
    return max(kept + logits, vision.inside * row.patches * width)


def find_stack(model: PreTrainedModel, parts: Parts, part: str) -> Stack:
    """The largest row of blocks in a part; an empty one when there is none."""
    import torch

    rows = [
        module for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module)
        and parts.part_of(name.removeprefix(PEFT_PREFIX)) == part]
    if not rows:
        return Stack(0, 0, 0, False)
    row = max(rows, key=lambda module: sum(parameter.numel() for parameter in module.parameters()))
    layers = list(list_linear(row[0]))
    hidden = layers[0][1].in_features
    outputs = sum(layer.out_features for _, layer in layers)
    inputs = sum(layer.in_features for name, layer in layers
                 if layer.weight.requires_grad or name.endswith("base_layer"))
    learns = any(parameter.requires_grad for parameter in row.parameters())
    # Two norms, each with its input in float32; where nothing has a gradient, half of it is freed at once.
    return Stack(len(row), hidden, outputs + inputs + 4 * hidden, learns)


def list_linear(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The linear layers in a module that are no adapters, in order."""
    import torch

    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".lora_" not in f".{name}":
            yield name, layer
