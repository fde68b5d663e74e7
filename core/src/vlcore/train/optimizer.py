"""What the optimizer is given: parameters in groups, each with its learning rate and weight decay."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vlcore.footprint import PEFT_PREFIX

if TYPE_CHECKING:
    from torch import nn

    from vlcore.config import SftConfig
    from vlcore.family import Parts

_log = logging.getLogger(__name__)


def group_parameters(
    model: nn.Module, parts: Parts, config: SftConfig, decaying: Collection[str]
) -> list[dict[str, Any]]:
    """The parameters that learn, those with weight decay first.

    Args:
        model: the model that learns.
        parts: which parameter belongs to which part.
        config: the resolved configuration.
        decaying: names of the parameters with weight decay.
    """
    rates = {"vision": config.vit_lr, "projector": config.aligner_lr}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    learning = set()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = parts.part_of(name.removeprefix(PEFT_PREFIX)) or "language"
        learning.add(part)
        rate = rates.get(part)
        rate = config.learning_rate if rate is None else rate
        assert rate is not None  # resolved
        if ".lora_B." in name:
            rate *= config.lora_plus_ratio
        groups.setdefault((name in decaying, rate), []).append(parameter)
    for option, part in (("vit_lr", "vision"), ("aligner_lr", "projector")):
        if getattr(config, option) is not None and part not in learning:
            _log.warning("--%s has no effect: nothing of the %s part is trained", option, part)
    return [
        {"params": parameters, "lr": rate, "weight_decay": config.weight_decay if decays else 0.0}
        for (decays, rate), parameters in sorted(groups.items(), key=lambda group: not group[0][0])
    ]
