"""The order of training rows whose lengths are known: like lengths in a step, no order among the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch.utils.data import Sampler

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

#: Steps whose rows are sorted together; more make lengths more alike and mixtures less random.
STEPS_SORTED = 50


class GroupedOrder(Sampler[int]):
    """Rows of like lengths for all processes of a step; the steps of an update come from anywhere.

    An update is then a mixture of all lengths, as without groups. The step with the longest row comes first, so
    that memory that is too small shows at once. The order of an epoch depends on the arguments and its number alone.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[numpy.integer], rows: int, seed: int) -> None:
        """Sorts nothing yet.

        Args:
            lengths: tokens of each row.
            rows: rows of a step, of all processes together.
            seed: of the order.
        """
        import numpy

        self.lengths, self.rows, self.seed = numpy.asarray(lengths), rows, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order is next; accelerate calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        import numpy

        chance = numpy.random.default_rng((self.seed, self.epoch))
        order = chance.permutation(len(self))
        spans = numpy.arange(len(self)) // (self.rows * STEPS_SORTED)
        order = order[numpy.lexsort((-self.lengths[order], spans))]
        whole = len(self) // self.rows
        steps = order[: whole * self.rows].reshape(whole, self.rows)
        steps = steps[chance.permutation(whole)]
        if whole:
            first = self.lengths[steps].max(axis=1).argmax()
            steps[[0, first]] = steps[[first, 0]]
        # Rows that fill no step stay last, or the steps behind them would begin in the middle of others.
        yield from steps.ravel().tolist()
        yield from order[whole * self.rows :].tolist()
