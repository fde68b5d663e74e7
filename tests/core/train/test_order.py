from __future__ import annotations

import numpy
import pytest
from vlcore.train.order import GroupedOrder

LENGTHS = numpy.exp(numpy.random.default_rng(0).normal(5, 1, 4000)).astype(int) + 1


def cut(lengths: numpy.ndarray, rows: int) -> list[numpy.ndarray]:
    return [lengths[first : first + rows] for first in range(0, len(lengths), rows)]


@pytest.mark.parametrize("rows", [1, 2, 7, 5000])
@pytest.mark.parametrize("count", [1, 2, 8, 99, 4000])
def test_every_row_comes_once_an_epoch(count: int, rows: int) -> None:
    order = GroupedOrder(LENGTHS[:count], rows, seed=0)
    assert sorted(order) == list(range(len(order))) == list(range(count))


def test_rows_of_a_step_are_alike_and_steps_are_mixed() -> None:
    steps = cut(LENGTHS[list(GroupedOrder(LENGTHS, 8, seed=0))], 8)
    spread = numpy.mean([step.std() for step in steps])
    assert spread < 0.1 * LENGTHS.std()
    means = numpy.array([step.mean() for step in steps])
    assert abs(numpy.corrcoef(means[1:-1], means[2:])[0, 1]) < 0.1


def test_the_step_with_the_longest_row_comes_first() -> None:
    order = GroupedOrder(LENGTHS, 8, seed=3)
    for epoch in range(3):
        order.set_epoch(epoch)
        assert LENGTHS.max() in LENGTHS[list(order)[:8]]


def test_rows_that_fill_no_step_come_last() -> None:
    lengths = numpy.arange(1, 403)
    steps = cut(lengths[list(GroupedOrder(lengths, 4, seed=0))], 4)
    assert [len(step) for step in steps[-2:]] == [4, 2]
    assert all(numpy.ptp(step) < 20 for step in steps[:-1])
    assert list(GroupedOrder([5, 9], 4, seed=0)) == [1, 0]


@pytest.mark.parametrize("epoch", [0, 5])
def test_an_epoch_is_the_same_whenever_it_begins(epoch: int) -> None:
    first, second = GroupedOrder(LENGTHS, 8, seed=0), GroupedOrder(LENGTHS, 8, seed=0)
    list(first)
    for order in (first, second):
        order.set_epoch(epoch)
    assert list(first) == list(second)
    second.set_epoch(epoch + 1)
    assert list(first) != list(second)
