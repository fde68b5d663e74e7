"""An adapter on a model without its weights: what it changes, and each change when the weights are brought."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.checkpoint import load_adapter
from vlcore.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

#: Rows of a weight that are summed at once.
BLOCK = 128


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter does to one module.

    Attributes:
        module: the module's name in the native model.
        names: the native tensors it changes.
        wrapper: what PEFT has put in the module's place.
        whole: whether the tensors are replaced by trained ones, whatever they were.
    """

    module: str
    names: tuple[str, ...]
    wrapper: Any
    whole: bool

    def apply(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The changed tensors by native name, computed as PEFT merges a model, in the dtype of the values.

        Args:
            values: the base's tensors of these names; none are needed when `whole`.

        Raises:
            CheckpointError: when what comes out is not finite.
        """
        if not self.whole:
            own = {name.removeprefix(f"{self.module}."): values[name] for name in self.names}
            find_base_layer(self.wrapper).load_state_dict(own, assign=True)
        merged = merge_module(self.wrapper).state_dict()
        changed = {f"{self.module}.{name}": tensor.detach() for name, tensor in merged.items()}
        self.wrapper.to("meta")  # lets go of the values: the model stays, and they are many
        for name, tensor in changed.items():
            check_finite(name, tensor)
        if changed.keys() != set(self.names):
            raise UsageError(f"adapter on {self.module}", "it adapts a module that it replaces", "merge it with PEFT")
        return changed


def find_base_layer(wrapper: Any) -> nn.Module:
    """The module that an adapter lies on."""
    layer: nn.Module = getattr(wrapper, "token_adapter", wrapper).get_base_layer()
    return layer


def merge_module(wrapper: Any) -> nn.Module:
    """The module that stays when an adapter is merged and unloaded, as `merge_and_unload` does it."""
    from peft.tuners.lora import Linear

    if type(wrapper) is Linear and is_plain(wrapper):
        return merge_rows(wrapper)
    if hasattr(wrapper, "unload_and_optionally_merge_module"):
        merged: nn.Module = wrapper.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        return merged
    wrapper.merge(safe_merge=False)
    layer: nn.Module = wrapper.get_base_layer()
    return layer


def is_plain(layer: Any) -> bool:
    """Whether each row of the sum depends on that row of B alone: no DoRA and its like, nothing transposed."""
    return not (layer.lora_variant or any(layer.lora_bias.values()) or layer.fan_in_fan_out)


def merge_rows(layer: Any) -> nn.Module:
    """What `merge` of PEFT's linear layer does, in blocks of rows that the processor's cache holds."""
    base: nn.Module = layer.get_base_layer()
    weight: Any = base.weight.data
    for name in layer.active_adapters:
        if name in layer.lora_A:
            a, b = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
            for rows, more in zip(weight.split(BLOCK), b.split(BLOCK), strict=True):
                rows += ((more @ a) * layer.scaling[name]).to(rows.dtype)
    return base


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Raises CheckpointError for values that are not finite."""
    if tensor.is_floating_point() and tensor.numel() and not all(end.isfinite() for end in tensor.aminmax()):
        raise CheckpointError(f"tensor {name}", "with the adapter it is not finite", "use an earlier checkpoint")


def list_changes(model: PreTrainedModel, adapter: Path) -> list[Change]:
    """What an adapter does to a model on the `meta` device, module by module, in the model's order.

    Raises:
        CheckpointError: when the adapter is damaged or of another model.
        UsageError: when it changes no weights.
    """
    from peft.utils.other import ModulesToSaveWrapper

    fill_hollow(model)
    adapted: Any = load_adapter(model, adapter)
    tuner = adapted.base_model
    if hasattr(tuner, "_check_merge_allowed"):
        tuner._check_merge_allowed()
    changes = []
    for name, wrapper in find_wrappers(getattr(tuner, "model", tuner)):
        whole = isinstance(wrapper, ModulesToSaveWrapper)
        base = wrapper.original_module if whole else find_base_layer(wrapper)
        changes.append(Change(name, tuple(f"{name}.{key}" for key in base.state_dict()), wrapper, whole))
    if not changes:
        raise UsageError(f"adapter {adapter}", "it changes no weights of the model", "give a LoRA checkpoint")
    return changes


def find_wrappers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's modules by the names of those they stand for; what lies in one of them is not looked at."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    above = "\0"
    for name, module in model.named_modules():
        if not name.startswith(above) and isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            above = f"{name}."
            yield name, module


def fill_hollow(model: nn.Module) -> None:
    """Gives a model on the `meta` device parameters of full shape that take one number of memory each.

    PEFT puts an adapter where the model's weights are, and on `meta` it would be lost.
    """
    import torch

    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                hollow = torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape)
                made.setdefault(id(parameter), torch.nn.Parameter(hollow, requires_grad=False))
                module._parameters[name] = made[id(parameter)]
