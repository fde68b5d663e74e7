from __future__ import annotations

import torch
from vlcore.train.loss import sum_loss


def test_the_sum_is_that_of_the_shifted_tokens() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    labels[0, :3] = -100
    loss, count = sum_loss(logits, labels)
    scores = logits.log_softmax(-1)
    counted = [(row, at) for row in range(2) for at in range(1, 5) if labels[row, at] >= 0]
    expected = -sum(scores[row, at - 1, labels[row, at]] for row, at in counted)
    torch.testing.assert_close(loss, expected)
    assert count == 2 + 4


def test_nothing_trained_gives_nothing() -> None:
    loss, count = sum_loss(torch.randn(1, 3, 4), torch.full((1, 3), -100))
    assert (loss, count) == (0, 0)


def test_padding_changes_nothing() -> None:
    logits, labels = torch.randn(1, 4, 5), torch.randint(5, (1, 4))
    padded = torch.cat([labels, torch.full((1, 2), -100)], 1)
    assert sum_loss(torch.cat([logits, torch.randn(1, 2, 5)], 1), padded)[0] == sum_loss(logits, labels)[0]
