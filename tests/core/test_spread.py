from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import torch
from vlcore.spread import CHUNK, spread


def double(indices: Sequence[int]) -> list[int]:
    return [2 * index for index in indices]


def name_process(indices: Sequence[int]) -> int:
    return os.getpid()


@pytest.mark.parametrize("processes", [0, 2])
def test_results_come_in_order_from_any_number_of_processes(processes: int) -> None:
    indices = range(3 * CHUNK + 5)
    results = [number for chunk in spread(double, indices, "test", processes) for number in chunk]
    assert results == [2 * index for index in indices]


def test_several_processes_work() -> None:
    assert len(set(spread(name_process, range(2 * CHUNK), "test", 2)) - {os.getpid()}) == 2


def test_few_rows_are_not_worth_a_process() -> None:
    assert set(spread(name_process, range(2 * CHUNK), "test")) == {os.getpid()}


def test_no_rows_give_no_results() -> None:
    assert list(spread(double, [], "test")) == []


def test_random_numbers_of_a_training_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    state = torch.get_rng_state()
    list(spread(double, range(10), "test", 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert "TOKENIZERS_PARALLELISM" not in os.environ
