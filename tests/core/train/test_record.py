from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from vlcore.train.record import Record, log_to

FIRST, SECOND = {"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "train_tokens_per_second": 1234.5}


def test_figures_follow_the_history_of_the_resumed_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("what the stopped run wrote after its checkpoint\n")
    record = Record(tmp_path)
    record.start([FIRST])
    record.add(SECOND, steps=4)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [FIRST, SECOND]


def test_the_log_says_loss_and_speed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with log_to(tmp_path / "train.log"):
        Record(tmp_path).add(SECOND, steps=4)
    assert "INFO step 2/4: loss 1, tokens/s 1234" in (tmp_path / "train.log").read_text()


def test_the_log_says_the_figures_of_an_evaluation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    entry = {"step": 2, "eval_loss": 1.0, "eval_box_iou@0.5": 0.25, "eval_runtime": 9.0}
    with log_to(tmp_path / "train.log"):
        Record(tmp_path).add(entry, steps=4)
    assert (tmp_path / "train.log").read_text().endswith("step 2/4: validation loss 1, validation box_iou@0.5 0.25\n")


def test_the_curve_is_drawn_again_only_for_new_figures(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.draw([FIRST])
    (tmp_path / "loss.png").unlink()
    record.draw([FIRST])
    assert not (tmp_path / "loss.png").exists()
    record.draw([FIRST, SECOND])
    assert (tmp_path / "loss.png").exists()


def test_logging_is_left_as_it_was_also_after_a_failure(tmp_path: Path) -> None:
    logger = logging.getLogger("vlcore")
    before = (list(logger.handlers), logger.level)
    with pytest.raises(KeyboardInterrupt), log_to(tmp_path / "train.log"):
        raise KeyboardInterrupt
    assert (list(logger.handlers), logger.level) == before
