from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont
from vlcore.boxes import Grounding, read_marks
from vlcore.errors import MediaError
from vlcore.messages import Image, Message, Video, user
from vlcore.train.sheet import LINES, SPACE, SQUARE, WIDTH, Entry, Shown, draw_sheet, show_media, wrap, write_sheet

GROUNDING = Grounding(read=read_marks, write_box=str, write_label=str)


def picture(colour: str = "orange", size: tuple[int, int] = (400, 300)) -> PilImage.Image:
    return PilImage.new("RGB", size, colour)


def entry(answer: str = "A cat.", shown: tuple[Shown, ...] = (), good: float | None = 1.0) -> Entry:
    return Entry(shown, "What is this?", "A cat.", answer, {"exact_match": good}, good)


def frontend(grounding: Grounding | None = None, fails: bool = False) -> Any:
    def fetch(messages: list[Message]) -> list[Message]:
        if fails:
            raise MediaError("cat.png", "it is gone", "bring it back")
        return messages

    return SimpleNamespace(fetch=fetch, checkpoint=SimpleNamespace(family=SimpleNamespace(grounding=grounding)))


def test_a_sheet_is_a_picture_and_a_page_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_sheet([entry(shown=(Shown(picture()),))] * 3, "step 4", tmp_path / "sheets" / "step-4")
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {"step-4.png", "step-4.html"}
    write_sheet([], "step 5", tmp_path / "none" / "step-5")
    assert not (tmp_path / "none").exists()


def test_the_page_shows_every_text_as_it_is_and_needs_no_other_file(tmp_path: Path) -> None:
    row = Entry((Shown(picture()), Shown(None, "gone & <lost>")), "<script>alert(1)</script>", "a < b", '"&amp;"\x00',
                {}, None)
    write_sheet([row], "<step>", tmp_path / "sheet")
    page = (tmp_path / "sheet.html").read_text("utf8")
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "a &lt; b" in page and "&quot;&amp;amp;&quot;<" in page and "gone &amp; &lt;lost&gt;" in page
    assert "&lt;step&gt;</h1>" in page and "http" not in page
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert PilImage.open(io.BytesIO(base64.b64decode(data))).size == (320, 240)


def test_right_and_wrong_answers_are_told_apart_by_colour() -> None:
    assert len({entry(good=good).colour for good in (None, 0.0, 0.5, 1.0)}) == 4


def test_a_card_is_as_high_as_its_pictures_or_its_texts() -> None:
    low, high = (draw_sheet([entry(shown=shown)]).height for shown in ((), (Shown(picture(size=(100, 300))),)))
    assert low < SQUARE < high
    sheet = draw_sheet([entry(), entry(), entry(shown=(Shown(picture()),) * 4)])
    assert sheet.width == 2 * WIDTH
    orange = [x for x in range(WIDTH) if sheet.getpixel((x, low + SPACE)) == (255, 165, 0)]
    assert orange and max(orange) < SPACE + SQUARE


def test_long_texts_are_cut_and_say_so() -> None:
    pen = ImageDraw.Draw(picture())
    pen.font = ImageFont.load_default(13)
    for text in ("word " * 1000, "W" * 5000, "i" * 5000):
        lines = wrap(pen, text, 300)
        assert len(lines) == LINES and lines[-1].endswith("…")
        assert max(map(pen.textlength, lines)) < 310
    assert wrap(pen, "two\nlines", 300) == ["two", "lines"]


def test_boxes_of_label_and_answer_are_drawn_in_pictures_of_their_own() -> None:
    messages = [user("Where?", [picture("red"), picture("blue")])]
    box = "<box>[[100, 100, 900, 900]]</box>"
    shown = list(show_media(frontend(GROUNDING), messages, box, f"Here: {box}"))
    assert [item.caption for item in shown] == ["", "expected", "answer"]
    assert all(item.picture is not None and item.picture.getcolors() for item in shown)
    plain, drawn = (item.picture.getcolors() for item in shown[:2] if item.picture)
    assert len(plain or ()) == 1 and len(drawn or ()) > 1
    assert [item.caption for item in show_media(frontend(), messages, box, box)] == ["", ""]


def test_some_frames_stand_for_a_video_and_few_pictures_for_many() -> None:
    frames = tuple(Image(picture(size=(10 + number, 10))) for number in range(9))
    shown = list(show_media(frontend(), [user("What?", [], [Video(frames=frames)])], "", ""))
    assert [item.picture.width for item in shown if item.picture] == [10, 12, 14, 16]
    assert len(list(show_media(frontend(), [user("What?", [picture()] * 7)], "", ""))) == 4


@pytest.mark.parametrize("lost", [True, False])
def test_a_picture_that_is_gone_leaves_a_word(tmp_path: Path, lost: bool) -> None:
    (shown,) = show_media(frontend(fails=lost), [user("What?", [tmp_path / "none.png"])], "", "")
    assert shown == Shown(None, "the picture cannot be read any more")
    assert draw_sheet([entry(shown=(shown,))]).height > 0
