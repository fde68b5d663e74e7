from __future__ import annotations

import json
from pathlib import Path

import pytest
from vlcore.train.goal import Best, Goal, choose_best, list_figures, write_best

HISTORY = [
    {"step": 1, "loss": 3.0}, {"step": 1, "eval_loss": 2.0, "eval_cer": 0.5}, {"step": 2, "eval_loss": 1.0},
    {"step": 3, "eval_loss": 1.5, "eval_cer": 0.7},
]


def test_figures_are_read_by_step_and_evaluations_without_them_left_out() -> None:
    assert Goal("eval_cer").read(HISTORY) == {1: 0.5, 3: 0.7}


@pytest.mark.parametrize(("greater", "best"), [(False, 2), (True, 1)])
def test_the_metric_says_which_way_is_better(greater: bool, best: int) -> None:
    goal = Goal(greater_is_better=greater)
    assert goal.find_best(goal.read(HISTORY)) == best
    assert goal.find_best({}) is None


def test_the_first_of_equal_figures_is_the_best() -> None:
    assert Goal().find_best({3: 1.0, 1: 1.0, 2: 1.0}) == 1
    assert Goal(greater_is_better=True).find_best({3: 1.0, 1: 1.0, 2: 1.0}) == 1


@pytest.mark.parametrize(
    ("values", "threshold", "waits"),
    [
        ([], 0.0, 0), ([3.0], 0.0, 0), ([3.0, 2.0, 2.0], 0.0, 1), ([1.0, 2.0, 3.0], 0.0, 2),
        ([3.0, 2.9, 2.8], 0.5, 2), ([3.0, 2.9, 2.4, 2.3], 0.5, 1), ([3.0, 2.8, 2.6, 2.4], 0.5, 0),
    ],
)
def test_evaluations_are_counted_that_bring_nothing_better(
    values: list[float], threshold: float, waits: int
) -> None:
    assert Goal(threshold=threshold).count_waits(dict(enumerate(values))) == waits
    mirrored = {step: -value for step, value in enumerate(values)}
    assert Goal(greater_is_better=True, threshold=threshold).count_waits(mirrored) == waits


def test_patience_runs_out_only_where_there_is_one() -> None:
    assert Goal(patience=1).is_given_up(HISTORY)
    assert not Goal(patience=2).is_given_up(HISTORY)
    assert not Goal().is_given_up(HISTORY)


def test_the_best_checkpoint_is_one_that_was_evaluated_in_its_step(tmp_path: Path) -> None:
    assert choose_best(Goal(), HISTORY, [2, 3]) == Best("eval_loss", 1.0, 2)
    assert choose_best(Goal(), HISTORY, [1, 3, 4]) == Best("eval_loss", 1.5, 3, better=2)
    assert choose_best(Goal(), HISTORY, [4]) is None
    write_best(choose_best(Goal(), HISTORY, [2, 3]), tmp_path)
    write_best(None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best.json"]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "checkpoint": "checkpoint-2", "step": 2, "metric": "eval_loss", "value": 1.0,
    }


def test_what_is_said_of_an_evaluation_beside_its_figures_is_no_figure() -> None:
    assert list_figures({"eval_loss": 1, "eval_cer": 1, "eval_runtime": 1, "step": 2}) == ["eval_cer"]
