from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from vlcore.train.curve import draw_curves, pick_series, smooth

HISTORY = [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5}, {"step": 2, "loss": 1.0}]


def test_series_are_picked_by_name() -> None:
    assert pick_series(HISTORY, "loss") == ([1, 2], [2.0, 1.0])
    assert pick_series(HISTORY, "eval_loss") == ([2], [1.5])


def test_the_smoothed_line_starts_at_the_first_value_and_follows() -> None:
    line = smooth([4.0, 2.0, 2.0])
    assert line[0] == pytest.approx(4.0)
    assert 2.0 < line[2] < line[1] < 4.0


MEASURED = [*HISTORY, {"step": 1, "learning_rate": 1e-4}, {"step": 2, "eval_cer": 0.5, "eval_runtime": 1.0}]
FULL = [*MEASURED, {"step": 1, "grad_norm": 1.0}, {"step": 2, "eval_anls": 0.5}]


@pytest.mark.parametrize(("history", "height"), [(HISTORY, 400), ([], 400), (MEASURED, 600), (FULL, 800)])
def test_each_row_of_panels_adds_to_the_picture_and_nothing_else_is_left(
    tmp_path: Path, history: list[dict[str, float]], height: int
) -> None:
    draw_curves(history, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.size == (800, height)
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
