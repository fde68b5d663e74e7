"""The loss: cross-entropy of the next token, as a sum, so that any division into batches has one mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlcore.batch import IGNORED

if TYPE_CHECKING:
    import torch


def sum_loss(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy in nats, and the number of tokens in the sum.

    Args:
        logits: (rows, positions, vocabulary), any floating dtype; computed on in float32.
        labels: (rows, positions), aligned with the inputs and shifted here; -100 takes no part.
        smoothing: part of each label's weight that is spread evenly over the vocabulary.
    """
    import torch

    targets = labels[:, 1:]
    trained = targets != IGNORED
    # Only the trained positions are copied to float32: prompts are long and vocabularies large.
    scores = logits[:, :-1][trained].float()
    loss = torch.nn.functional.cross_entropy(scores, targets[trained], reduction="sum", label_smoothing=smoothing)
    return loss, trained.sum()
