from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from vlcore.contact import CAPTION, COLUMNS, EDGE, draw_contact_sheet
from vlcore.demo import HELD_OUT, WORDS, Demo, find_family, load_digits, prepare_folder, write_digits
from vlcore.errors import ModelNotFound, UsageError


def test_the_digits_of_scikit_learn_become_png_files(tmp_path: Path) -> None:
    digits = write_digits(load_digits(), tmp_path / "images")
    assert len(digits) == 1797
    assert {item.digit for item in digits} == set(range(10))
    with Image.open(digits[0].image) as picture:
        assert (picture.size, picture.mode) == ((56, 56), "L")


def test_a_folder_that_is_not_a_demos_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", "utf8")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not empty"):
            prepare_folder(tmp_path, overwrite)
    assert (tmp_path / "thesis.txt").read_text("utf8") == "mine"


def test_an_earlier_demo_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "digits-train.jsonl").write_text("", "utf8")
    with pytest.raises(UsageError, match="--overwrite"):
        prepare_folder(tmp_path, False)
    prepare_folder(tmp_path, True)
    assert list(tmp_path.iterdir()) == []


def test_a_family_that_is_not_installed_names_its_plugin() -> None:
    with pytest.raises(ModelNotFound, match="pip install vlcore-some-vl"):
        find_family("some_vl")


def test_a_contact_sheet_shows_every_image_with_its_answer(tmp_path: Path) -> None:
    paths = []
    for number in range(COLUMNS + 1):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (30, 60), (255, 0, 0)).save(paths[-1])
    sheet = draw_contact_sheet(paths, ["yes"] * len(paths), [True] * len(paths), tmp_path / "sheet.png")
    with Image.open(sheet) as picture:
        assert picture.size == (COLUMNS * EDGE, 2 * (EDGE + CAPTION))
        assert picture.getpixel((EDGE // 2, EDGE // 2)) == (255, 0, 0)
        assert picture.getpixel((EDGE // 2, EDGE + CAPTION + EDGE // 2)) == (255, 0, 0)


def test_the_demo_teaches_digits_then_words_and_merging_changes_no_answer(tmp_path: Path) -> None:
    said: list[str] = []
    scores = {score.model: score for score in Demo(tmp_path / "demo", "internvl", 7, said.append).run()}
    assert scores["base"].digits <= 0.3
    assert scores["full"].digits >= 0.95
    assert scores["adapter"].words >= 0.95
    assert scores["merged"].answers == scores["adapter"].answers
    assert len(scores["merged"].answers) == HELD_OUT
    assert set(scores["merged"].answers) <= set(WORDS)
    assert sum(text.lstrip().startswith("$ vlcore") for text in said) == 7
    for name in ("loss-full.png", "loss-adapter.png", "answers.png"):
        with Image.open(tmp_path / "demo" / name) as picture:
            assert min(picture.size) > 100
