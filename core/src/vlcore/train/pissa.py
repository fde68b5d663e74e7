"""PiSSA adapters as plain ones, and back.

PiSSA (Meng et al. 2024, arXiv:2404.02948) starts from the largest singular values of a weight and takes them out of
it, so its adapters fit only the weights that are left. Written down, an adapter is as much as training has changed,
`BA - B0 A0`: a plain adapter of twice the rank that fits the release's own weights. Its first half is what learns,
its second half what was taken out, so a training can go on from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.checkpoint import ADAPTER_CONFIG
from vlcore.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

WEIGHTS = "adapter_model.safetensors"


def read_factors(model: PeftModel) -> dict[str, torch.Tensor]:
    """Copies of the adapter's tensors, by PEFT's names."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def write_plain(model: PeftModel, first: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Writes the adapter as a plain one of twice the rank.

    Args:
        model: the model that learns.
        first: its factors before the first step.
        folder: where PEFT's files go.
    """
    import torch
    from safetensors.torch import save_file

    now = read_factors(model)
    plain = {
        name: torch.cat([tensor, first[name]]) if "lora_A" in name
        else torch.cat([tensor, -first[name]], dim=1) if "lora_B" in name
        else tensor
        for name, tensor in now.items()
    }
    save_file({name: tensor.cpu().contiguous() for name, tensor in plain.items()}, folder / WEIGHTS,
              metadata={"format": "pt"})
    config: Any = copy(model.peft_config["default"])
    # Twice both: the scale, alpha over rank, stays.
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, 2 * config.lora_alpha, True
    config.inference_mode = True
    config.save_pretrained(str(folder))


def read_plain(model: PeftModel, folder: Path) -> dict[str, torch.Tensor]:
    """Gives a model with new PiSSA adapters the state it was written from.

    Args:
        model: the release with adapters of the training's own rank, not yet started from singular values.
        folder: what `write_plain` wrote.

    Returns:
        The factors before the first step.

    Raises:
        CheckpointError: when the adapter is not of this model.
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    written = load_file(folder / WEIGHTS)
    own = read_factors(model)
    if own.keys() != written.keys():
        raise CheckpointError(f"adapter {folder / ADAPTER_CONFIG}", "it is of another model", "take its own checkpoint")
    now, first = {}, {}
    for name, tensor in written.items():
        dim = 1 if "lora_B" in name else 0
        halves = tensor.chunk(2, dim) if "lora_" in name else (tensor, tensor)
        now[name], first[name] = halves[0], -halves[1] if "lora_B" in name else halves[1]
    set_peft_model_state_dict(model, now)
    for name, layer in list_layers(model):
        a, b = (first[f"{name}.lora_{factor}.weight"].to(layer.base_layer.weight.device) for factor in "AB")
        weight = layer.base_layer.weight
        # As PEFT rounds when it takes the singular values out.
        weight.data = (weight.data.to(torch.float32) - layer.scaling["default"] * b @ a).to(weight.dtype)
    return first


def list_layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """The layers with adapters, by PEFT's names."""
    return ((name, module) for name, module in model.named_modules() if getattr(module, "lora_A", None))
