from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from PIL import ImageFont
from vlcore import fonts
from vlcore.fonts import ask_system, choose_font, find_bundled, has_sign


def test_plain_labels_are_written_in_pillows_own_font() -> None:
    assert choose_font("a cat", 14).getname() == ImageFont.load_default(14).getname()


def test_letters_that_pillows_font_lacks_come_from_one_that_has_them() -> None:
    assert not has_sign(ImageFont.load_default(14), "é")
    font = choose_font("café и кот", 14)
    assert all(has_sign(font, sign) for sign in "éикот")


def test_signs_that_no_font_has_are_warned_of_and_the_others_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "FILES", ())
    monkeypatch.setattr(fonts, "ask_system", lambda signs: "")
    with pytest.warns(UserWarning, match="no font of this system"):
        font = choose_font("é猫", 14)
    assert has_sign(font, "é")


def test_the_system_is_asked_for_a_font_with_the_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def answer(signs: str) -> str:
        asked.append(signs)
        return find_bundled()

    monkeypatch.setattr(fonts, "find_bundled", lambda: "no such font")
    monkeypatch.setattr(fonts, "ask_system", answer)
    assert has_sign(choose_font("aé", 14), "é") and asked == ["é"]


def test_a_system_without_fontconfig_has_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_system.__wrapped__("é") == ""


def test_a_label_of_spaces_needs_no_font() -> None:
    with warnings.catch_warnings(action="error"):
        choose_font(" \n", 14)
