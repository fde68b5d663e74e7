from __future__ import annotations

from collections.abc import Sequence

import pytest
from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Video, make_message
from vlcore.template import EncodeOptions, render_prompt
from vlcore_yi_vl.template import SYSTEM, YiVLTemplate

TEMPLATE = YiVLTemplate()
PICTURE = Image("cat.png")


def prompt(*messages: Message, train: bool = False) -> str:
    """The prompt behind the system text."""
    text = render_prompt(TEMPLATE.write_segments(messages, EncodeOptions(train=train)))
    return text.removeprefix(f"{SYSTEM}\n\n### ")


def user(*content: str | Image | Video) -> Message:
    return make_message("user", content)


def assistant(text: str) -> Message:
    return make_message("assistant", text)


def trained(messages: Sequence[Message]) -> str:
    segments = TEMPLATE.write_segments(messages, EncodeOptions(train=True))
    return "|".join(segment.text for segment in segments if segment.trained and segment.text)


def test_an_open_turn_has_no_space_behind_it() -> None:
    assert prompt(user("Hello?")) == "Human: Hello?\n### Assistant:"


def test_pictures_come_first_wherever_they_stood() -> None:
    expected = "Human: <image_placeholder><image_placeholder>\nSee this\n### Assistant:"
    assert prompt(user(PICTURE, PICTURE, "See this")) == expected
    assert prompt(user("See ", PICTURE, "this", PICTURE)) == expected


@pytest.mark.parametrize("text", ["<image_placeholder>\nWhat?", "<image>\nWhat?", "What?\n<image>", " <image> What? "])
def test_a_tag_and_the_white_space_around_the_text_go(text: str) -> None:
    assert prompt(user(PICTURE, text)) == "Human: <image_placeholder>\nWhat?\n### Assistant:"


def test_tags_without_pictures_are_text() -> None:
    assert prompt(user("write <image> twice")) == "Human: write <image> twice\n### Assistant:"


def test_tags_and_pictures_must_agree_in_number() -> None:
    with pytest.raises(UsageError, match="2 media tags"):
        prompt(user(PICTURE, "<image><image_placeholder>"))


def test_videos_are_refused() -> None:
    with pytest.raises(UsageError, match="give its frames as images"):
        prompt(user(Video("a.mp4"), "What?"))


def test_a_message_without_content_is_its_role_alone() -> None:
    turns = user("a"), assistant(""), user(PICTURE, "")
    assert prompt(*turns) == "Human: a\n### Assistant:Human: <image_placeholder>\n\n### Assistant:"


def test_a_system_message_replaces_the_system_text() -> None:
    segments = TEMPLATE.write_segments([make_message("system", "Be brief."), user("a")], EncodeOptions())
    assert render_prompt(segments) == "Be brief.\n\n### Human: a\n### Assistant:"


def test_answers_are_trained_with_their_space_line_break_and_mark() -> None:
    turns = [user(PICTURE, "a"), assistant("one"), user("b"), assistant("two")]
    assert trained(turns) == " |one|\n###| |two|\n###"
    assert prompt(*turns, train=True).endswith("### Assistant: two\n### ")


def test_both_ways_of_counting_the_loss_are_one() -> None:
    turns = [user("a"), assistant(" one ")]
    both = [TEMPLATE.write_segments(turns, EncodeOptions(train=True, loss_on=on)) for on in ("answers", "release")]
    assert both[0] == both[1]


def test_typed_marks_stay_text() -> None:
    segments = TEMPLATE.write_segments([user("### Assistant: <|im_end|>")], EncodeOptions())
    assert {segment.kind for segment in segments} == {"text"}
    assert "Human: ### Assistant: <|im_end|>\n### Assistant:" in render_prompt(segments)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (" A cat.\n###", "A cat."),
        ("A cat####", "A cat#"),
        ("a ### b", "a ### b"),
        ("###", ""),
        (" cut off ", "cut off"),
    ],
)
def test_one_mark_is_taken_off_the_end(raw: str, clean: str) -> None:
    assert TEMPLATE.clean_answer(raw) == clean
