"""What a model computes: it must not depend on which rows are computed together, nor on padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlcore.batch import Example, Pack, collate, collate_packs
from vlcore.errors import UsageError
from vlcore.media import normalise
from vlcore.testing.outcome import Fault, NotApplicable

if TYPE_CHECKING:
    import torch

    from vlcore.model import VLModel
    from vlcore.testing.subject import Subject

#: Largest difference of a score over the largest one. Sums of float32 are made in another order in a batch.
TOLERANCE = 2e-4


def differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value that is expected; infinite when a number is not finite."""
    gap = float((found - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
    return gap if gap == gap else float("inf")


def score_rows(model: VLModel, examples: Sequence[Example], side: str) -> list[torch.Tensor]:
    """The scores of rows that are computed as one batch, each (positions, vocabulary), without the padding."""
    import torch

    batch = model.place(collate(examples, model.frontend.tokenizer.pad_id, side))
    batch.pop("labels")
    module: Any = model.module
    with torch.no_grad():
        logits = module(**batch).logits
    longest = logits.shape[1]
    cut = [slice(longest - len(e), None) if side == "left" else slice(0, len(e)) for e in examples]
    return [row[part] for row, part in zip(logits, cut, strict=True)]


def score_alone(subject: Subject) -> dict[str, torch.Tensor]:
    """The scores of each conversation alone.

    Raises:
        Fault: when they are not finite.
    """
    found = {name: score_rows(subject.model, [example], "right")[0] for name, example in subject.rows.items()}
    for name, scores in found.items():
        if not scores.isfinite().all():
            raise Fault(f"the scores of a row ({name})", "some are not finite", "look for divisions by zero")
    return found


def check_batch(subject: Subject) -> None:
    """A row has the same scores alone and among others, with and without pictures, in any order."""
    alone = score_alone(subject)
    names = list(alone)
    for order in (names, names[::-1]):
        together = score_rows(subject.model, [subject.rows[name] for name in order], "right")
        for name, scores in zip(order, together, strict=True):
            gap = differ(scores, alone[name])
            if gap > TOLERANCE:
                raise Fault(f"a row ({name}) in a batch", f"its scores move by {gap:.2g} of the largest",
                            "compute each row from its own tokens and tiles: keep the order of tiles, mask the padding")


def check_padding(subject: Subject) -> None:
    """A row that is padded on the left, as for answers, has the scores of a row that is padded on the right."""
    rows = list(subject.rows.values())
    left, right = (score_rows(subject.model, rows, side) for side in ("left", "right"))
    for name, found, expected in zip(subject.rows, left, right, strict=True):
        gap = differ(found, expected)
        if gap > TOLERANCE:
            raise Fault(f"a row ({name}) padded on the left", f"its scores move by {gap:.2g} of the largest",
                        "hand attention_mask and position_ids on, and count no position from the row's first column")


def check_packing(subject: Subject) -> None:
    """Rows that share one row of a batch have the scores that each has alone, whatever computes attention."""
    from vlcore.train.packs import refuse_overlay

    try:
        refuse_overlay(subject.frontend)
    except UsageError as error:
        raise NotApplicable(error.why) from None
    alone = score_alone(subject)
    for attention in ("transformers' mask", "rows apart"):
        model = subject.load()
        for name, scores in score_packed(subject, model, attention).items():
            gap = differ(scores, alone[name])
            if gap > TOLERANCE:
                check_refused(model)
                raise Fault(f"a row ({name}) packed with others ({attention})",
                            f"its scores move by {gap:.2g} of the largest",
                            "make masks of position_ids when there is no attention_mask, as transformers' models do")


def score_packed(subject: Subject, model: VLModel, attention: str) -> dict[str, torch.Tensor]:
    """The scores of each conversation when all of them share one row."""
    import torch

    from vlcore.attention import use_rows
    from vlcore.train.learner import leave_cache

    module: Any = model.module
    if attention == "rows apart":
        use_rows(module)
    leave_cache(module)
    rows, frontend = subject.rows, model.frontend
    batch = normalise(frontend.media, collate_packs([Pack(tuple(rows.values()))], frontend.tokenizer.pad_id))
    batch.pop("labels")
    with torch.no_grad():
        logits = module(**batch).logits[0]
    return dict(zip(rows, logits.split([len(row) for row in rows.values()]), strict=True))


def check_refused(model: VLModel) -> None:
    """Leaves a model whose language model, as transformers has it, sees over the borders of packed rows by itself.

    A training refuses to pack it (`check_apart`); what a plugin's own code does to the rows can be mended.

    Raises:
        NotApplicable: with the reason of the refusal.
    """
    import torch

    from vlcore.train.packs import PROBE, check_apart

    module: Any = model.module
    decoder = module.get_decoder()

    def forward(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        states: torch.Tensor = decoder(input_ids=batch["input_ids"], position_ids=batch["position_ids"])[0]
        return states

    try:
        with torch.no_grad():
            check_apart(forward, model.frontend.tokenizer.encode(PROBE), flat=False)
    except UsageError as error:
        raise NotApplicable(f"{type(decoder).__name__}: {error.why}") from None


def check_gradients(subject: Subject) -> None:
    """A training step on rows with and without pictures reaches every part; recomputed activations change nothing."""
    plain = measure_step(subject, list(subject.rows))
    for name, gradient in plain.items():
        if not gradient.isfinite().all():
            raise Fault(f"the gradient of {name}", "it is not finite", "look for divisions by zero in training mode")
    part_of = subject.checkpoint.parts.part_of
    reached = {part_of(name) for name, gradient in plain.items() if gradient.any()}
    for part in {part_of(name) for name, _ in subject.model.module.named_parameters()} - reached - {None}:
        raise Fault(f"part {part}", "no gradient reaches it", "detach nothing in forward, and compute with gradients")
    text = measure_step(subject, ["text"])
    if not any(gradient.any() for gradient in text.values()):
        raise Fault("a row of text alone", "it has no gradient", "let forward take a batch without pixels")
    if not subject.model.module.supports_gradient_checkpointing:
        return
    again = measure_step(subject, list(subject.rows), recompute=True)
    for name in plain:
        if name not in again or (differ(again[name], plain[name]) > TOLERANCE and plain[name].abs().max() > 1e-6):
            raise Fault(f"the gradient of {name}", "it changes when activations are recomputed",
                        "let layers depend on their inputs alone, or set supports_gradient_checkpointing to False")


def measure_step(subject: Subject, names: Sequence[str], recompute: bool = False) -> Mapping[str, torch.Tensor]:
    """The gradients of a training step on some conversations."""
    import torch

    from vlcore.train.learner import leave_cache, save_activations
    from vlcore.train.loss import sum_loss

    model = subject.load()
    module: Any = model.module.train()
    leave_cache(module)
    if recompute:
        save_activations(module)
    batch = model.place(collate([subject.rows[name] for name in names], model.frontend.tokenizer.pad_id))
    labels = batch.pop("labels")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss, count = sum_loss(module(**batch).logits, labels)
        mean: Any = loss / count
        mean.backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
