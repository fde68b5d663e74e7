from __future__ import annotations

import random
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from transformers import GenerationConfig
from vlcore.metrics import Facts, Metric, RowScores, Score, choose_metrics, measure_row
from vlcore.train.evaluation import Evaluation, hush_fonts, keep_random, prepare_answers, rate
from vlcore.train.ranks import Place


def draw() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def test_random_states_are_as_before_also_after_a_failure() -> None:
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    with keep_random():
        first = draw()
    with pytest.raises(KeyError), keep_random():
        assert draw() == first
        raise KeyError
    assert draw() == first
    assert draw() != first


def test_generation_settings_of_the_release_come_back() -> None:
    own = GenerationConfig(temperature=0.3, do_sample=True)
    module = SimpleNamespace(generation_config=own)
    with pytest.raises(KeyError), prepare_answers(module):
        assert not module.generation_config.do_sample
        raise KeyError
    assert module.generation_config is own


def test_warnings_about_a_sheet_are_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), hush_fonts():
        for text in ("no sign", "no sign", "no font"):
            warnings.warn(text, stacklevel=1)
    assert caplog.messages == ["no sign", "no font"]


def test_an_answer_is_as_good_as_its_metrics_say_on_average() -> None:
    metrics = choose_metrics(["exact_match", "cer", "box_iou"])
    assert rate(metrics, measure_row(metrics, "cat", "cat", Facts())) == 1.0
    assert rate(metrics, measure_row(metrics, "xyz", "cat", Facts())) == 0.0
    assert rate(metrics, measure_row(metrics, "cut", "cat", Facts())) == pytest.approx(1 / 3)
    silent = Metric(name="silent", help="", score=lambda answer, labels, facts: None)
    assert rate([silent], measure_row([silent], "cat", "cat", Facts())) is None
    assert rate([], RowScores(scores={"cer": Score(1.0)}, labelled=True, failed=False)) is None


@pytest.mark.parametrize(("limit", "count"), [(0, 5), (3, 3), (9, 5)])
def test_a_limit_takes_the_first_rows(limit: int, count: int, tmp_path: Path) -> None:
    config = SimpleNamespace(predict_limit=limit)
    made = Evaluation(SimpleNamespace(), range(5), (), config, Place(), tmp_path)  # type: ignore[arg-type]
    assert made.count == count
