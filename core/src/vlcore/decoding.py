"""Decoding: one token after the other, with little between two steps of the model. Heavy: imported when needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed import get_world_size, is_initialized

#: What a step of a model takes, besides switches, when nothing of a prompt but its cache is needed any longer.
STEP_INPUTS = frozenset({"input_ids", "past_key_values", "attention_mask", "position_ids"})
#: Settings that only a mixture of experts has.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def decodes_alone(module: Any) -> bool:
    """Whether `decode` serves a model.

    Not one whose parameters lie on several processes, which must take equally many steps, and not a mixture of
    experts, whose kernels transformers' own loop chooses.
    """
    sharded = is_initialized() and get_world_size() > 1
    text = module.config.get_text_config(decoder=True)
    return not sharded and not any(getattr(text, name, None) for name in EXPERTS)


def decode(
    model: Any, input_ids: torch.Tensor, logits_processor: Any, stopping_criteria: Any, generation_config: Any,
    **inputs: Any,
) -> torch.Tensor:
    """What `generate(custom_generate=decode)` runs for greedy search and sampling; as transformers' own loop.

    Args:
        model: the native model.
        input_ids: the prompts, (rows, positions), padded on the left.
        logits_processor: changes scores, (rows, vocabulary), in view of the ids so far.
        stopping_criteria: tells which rows have ended.
        generation_config: complete settings.
        inputs: what else the model is fed, with the cache.

    Returns:
        Prompts and answers, (rows, positions); rows that ended early are filled with the pad token.
    """
    start, last = input_ids.shape[1], generation_config.max_length
    ids = torch.nn.functional.pad(input_ids, (0, last - start), value=int(generation_config.pad_token_id or 0))
    running = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    logits = read_prompt(model, input_ids, generation_config, inputs)
    steps = None
    for length in range(start, last):
        scores = logits_processor(ids[:, :length], logits) if logits_processor else logits
        tokens = choose_tokens(scores, generation_config.do_sample)
        ids[:, length] = tokens.where(running, ids[:, length])
        running = running & ~stopping_criteria(ids[:, : length + 1], None)
        if length + 1 == last or not running.any():
            return ids[:, : length + 1]
        steps = steps or Steps(model, ids, length, inputs)
        logits = steps.take(length)
    return ids


def read_prompt(model: Any, input_ids: torch.Tensor, generation_config: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Logits behind the prompts, (rows, vocabulary) in float32; what the cache holds is not computed again."""
    held = inputs["past_key_values"].get_seq_length()
    fed = model.prepare_inputs_for_generation(
        input_ids, next_sequence_length=input_ids.shape[1] - held if held else None, is_first_iteration=True, **inputs
    )
    return last_logits(model(**fed, return_dict=True))


def last_logits(outputs: Any) -> torch.Tensor:
    """Logits of the last position, (rows, vocabulary), in float32."""
    logits: torch.Tensor = outputs.logits[:, -1].float()
    return logits


def choose_tokens(scores: torch.Tensor, sampled: bool) -> torch.Tensor:
    """The next token of each row, (rows,)."""
    if not sampled:
        return scores.argmax(-1)
    return torch.multinomial(torch.softmax(scores, dim=-1), 1).squeeze(1)


class Steps:
    """The steps of a model behind its prompts.

    The model's own preparation of what it is fed is asked once. Where it names nothing but ids, mask, positions and
    switches, later steps are fed the same with the next token's values; else it is asked every time.
    """

    def __init__(self, model: Any, ids: torch.Tensor, length: int, inputs: Mapping[str, Any]) -> None:
        self.model, self.ids, self.first = model, ids, length
        self.inputs = dict(inputs)
        rows, last = ids.shape
        mask = self.inputs.get("attention_mask")
        self.mask = None if mask is None else torch.cat([mask, mask.new_ones(rows, last - mask.shape[1])], dim=-1)
        positions = self.inputs.get("position_ids")
        # Of the last prompt position; an axis before the rows, if any, is that of rotary embeddings with several parts.
        self.position = None if positions is None else positions[..., -1:]
        self.fixed = self._list_fixed(self._prepare(length))

    def take(self, length: int) -> torch.Tensor:
        """Logits behind the token at a position, (rows, vocabulary)."""
        if self.fixed is None:
            return last_logits(self.model(**self._prepare(length), return_dict=True))
        fed = {"input_ids": self.ids[:, length : length + 1], **self._advance(length)}
        return last_logits(self.model(**self.fixed, **fed, return_dict=True))

    def _advance(self, length: int) -> dict[str, torch.Tensor | None]:
        """Mask and positions of a step; only what the model was given at first."""
        mask = None if self.mask is None else self.mask[:, : length + 1]
        position = None if self.position is None else self.position + (length - self.first + 1)
        return {"attention_mask": mask} | ({} if position is None else {"position_ids": position})

    def _prepare(self, length: int) -> dict[str, Any]:
        """What the model itself says that it is fed at a step."""
        kinds = {name: value[:, -1:] if name == "token_type_ids" else torch.zeros_like(value[:, -1:])
                 for name, value in self.inputs.items() if name.endswith("token_type_ids") and value is not None}
        prepared: dict[str, Any] = self.model.prepare_inputs_for_generation(
            self.ids[:, : length + 1], next_sequence_length=1, **{**self.inputs, **self._advance(length), **kinds}
        )
        return prepared

    def _list_fixed(self, prepared: Mapping[str, Any]) -> dict[str, Any] | None:
        """What stays the same from step to step, or None when something may not."""
        tensors = {name for name, value in prepared.items() if isinstance(value, torch.Tensor)}
        if not tensors <= STEP_INPUTS or ("position_ids" in tensors) != (self.position is not None):
            return None
        return {n: v for n, v in prepared.items() if n not in ("input_ids", "attention_mask", "position_ids")}
