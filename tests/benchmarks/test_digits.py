from __future__ import annotations

import itertools
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "digits.py"


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


def test_a_small_run_trains_adapts_merges_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "digits"
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "--small", "--folder", str(folder)])
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split()[2] for line in lines if line.startswith("$ vlcore ")]
    assert commands == ["sft", "sft", "export", *["infer"] * 9]
    at = next(number for number, line in enumerate(lines) if line.startswith("model "))
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["full", "adapter", "merged"]
    assert lines[at + 4] == "answers of adapter and merged model: identical"
    for name in ("sheet.png", "boxes.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100


def test_digits_lie_inside_their_picture_apart_and_in_the_order_of_reading(
    tmp_path: Path, names: dict[str, Any]
) -> None:
    scenes = names["compose_all"](names["read_sources"](0)["val"], tmp_path / "pictures", 60)
    assert {len(scene.rows) for scene in scenes} == {1, 2, 3}
    assert {len(row) for scene in scenes for row in scene.rows} == {1, 2, 3, 4}
    for scene in scenes:
        boxes = [digit.box for digit in scene.digits]
        assert all(0 <= left < right <= 112 and 0 <= top < bottom <= 112 for left, top, right, bottom in boxes)
        for one, other in itertools.pairwise(boxes):
            assert one[2] <= other[0] or one[3] <= other[1]


def test_answers_say_what_the_picture_shows(tmp_path: Path, names: dict[str, Any]) -> None:
    pool = [(picture, 7) for picture, _ in names["read_sources"](0)["val"]]
    scene = names["compose"](pool, tmp_path / "a.png", random.Random(0), [2, 3])
    for seed in range(20):
        read, count, point = names["ask"](scene, random.Random(seed))
        assert (read.answer, point.text, len(point.boxes)) == ("77\n777", "Where is the 7?", 5)
        assert count.answer == ("5" if count.text in ("How many digits?", "How many 7s are there?") else "0")


def test_no_digit_is_both_trained_and_tested_on(names: dict[str, Any]) -> None:
    sources = names["read_sources"](0)
    assert sum(map(len, sources.values())) == 1797
    held = {part: {picture.tobytes() for picture, _ in digits} for part, digits in sources.items()}
    assert not held["test"] & (held["train"] | held["val"])


def test_answers_in_words_leave_places_as_they_are(names: dict[str, Any]) -> None:
    spell = names["spell"]
    assert spell("read", "37\n5") == "three seven\nfive"
    assert (spell("count", "11"), spell("point", "<bbox>")) == ("eleven", "<bbox>")
