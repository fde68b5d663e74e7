from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image as Picture
from vlcore.budget import Overflow, drop_turns, fit, list_reductions, reduce
from vlcore.errors import DataError
from vlcore.messages import Image, Message, Text, Video, make_message
from vlcore.model import Frontend

OpenFrontend = Callable[[str], Frontend]
FIXED = ["yi-vl-6b-chat", "qwen-vl-chat", "deepseek-vl-7b-chat"]
PLAN: dict[str, Any] = {"train": True}


@pytest.fixture
def frontend(open_frontend: OpenFrontend) -> Frontend:
    return open_frontend("internvl2-2b")


def picture(width: int, height: int) -> Image:
    return Image(Picture.new("RGB", (width, height)))


def talk(*questions: Sequence[Any], system: str = "") -> list[Message]:
    turns = [make_message("system", system)] if system else []
    for number, question in enumerate(questions):
        turns += [make_message("user", question), make_message("assistant", f"Answer {number}.")]
    return turns


def length(frontend: Frontend, messages: Sequence[Message], **options: Any) -> int:
    return len(frontend.encode(messages, train=True, **options))


def test_what_fits_stays_as_it_is(frontend: Frontend) -> None:
    messages = talk(["Hello"])
    taken, layout = fit(frontend, messages, 0, "error", **PLAN)
    assert (taken.messages, taken.step, dict(taken.options)) == (tuple(messages), 0, {})
    assert len(layout) == length(frontend, messages)
    assert fit(frontend, messages, len(layout), "error", **PLAN)[0].step == 0


@pytest.mark.parametrize("on_overflow", ["error", "drop", "truncate", "shrink"])
def test_what_cannot_fit_is_an_error_with_both_lengths(frontend: Frontend, on_overflow: Any) -> None:
    messages = talk(["Hello"])
    with pytest.raises(Overflow, match=f"it has {length(frontend, messages)} tokens.*, max_length is 5;"):
        fit(frontend, messages, 5, on_overflow, **PLAN)


def test_tiles_go_one_by_one_until_it_fits(frontend: Frontend) -> None:
    messages = talk([picture(3000, 2000), Text("What?")])
    whole = length(frontend, messages)
    for limit in range(whole - 1, length(frontend, messages, max_num=1) - 1, -40):
        taken, layout = fit(frontend, messages, limit, "shrink", **PLAN)
        assert length(frontend, taken.messages, **taken.options) == len(layout) <= limit
        above = reduce(frontend, messages, "shrink", taken.step - 1)
        assert length(frontend, above.messages, **above.options) > limit
        assert reduce(frontend, messages, "shrink", taken.step) == taken


def test_pictures_of_a_row_start_from_the_tiles_they_share(frontend: Frontend) -> None:
    messages = talk([picture(800, 600), picture(800, 600), picture(800, 600), Text("What?")])
    steps = [dict(taken.options) for taken in list_reductions(frontend, messages, "shrink")]
    assert steps == [{}, {"max_num": 3}, {"max_num": 2}, {"max_num": 1}]
    many = talk([*[picture(800, 600)] * 13, Text("What?")])
    assert [dict(taken.options) for taken in list_reductions(frontend, many, "shrink")] == [{}]


def test_videos_lose_tiles_of_pictures_first_and_then_frames(frontend: Frontend) -> None:
    given = Video(frames=(picture(40, 40),) * 3)
    messages = talk([picture(800, 600), Video("a.mp4"), Text("What?")])
    steps = [dict(taken.options) for taken in list_reductions(frontend, messages, "shrink")]
    assert steps[11:14] == [{"max_num": 1}, {"max_num": 1, "num_segments": 7}, {"max_num": 1, "num_segments": 6}]
    assert steps[-1] == {"max_num": 1, "num_segments": 1}
    assert len(list(list_reductions(frontend, talk([given, Text("What?")]), "shrink"))) == 1
    assert len(list(list_reductions(frontend, talk(["Hello"]), "shrink"))) == 1


@pytest.mark.parametrize("model", FIXED)
def test_a_model_of_fixed_pictures_has_nothing_to_shrink(open_frontend: OpenFrontend, model: str) -> None:
    messages = talk([picture(800, 600), Text("What?")])
    with pytest.raises(Overflow, match="shrink knows no way to make this model's media smaller"):
        fit(open_frontend(model), messages, 20, "shrink", **PLAN)


def test_the_oldest_turns_go_with_their_pictures(frontend: Frontend) -> None:
    messages = talk([picture(800, 600), Text("One?")], ["Two?"], [picture(20, 20), Text("Three?")], system="Be short.")
    two_left = length(frontend, [messages[0], *messages[3:]])
    taken, layout = fit(frontend, messages, two_left, "truncate", **PLAN)
    assert [message.text for message in taken.messages] == ["Be short.", "Two?", "Answer 1.", "Three?", "Answer 2."]
    assert (taken.step, len(layout), len(layout.slots)) == (1, two_left, 1)
    assert reduce(frontend, messages, "truncate", 1) == taken


def test_the_last_question_stays(frontend: Frontend) -> None:
    messages = talk(["One?"], ["Two?"])
    assert [taken.step for taken in list_reductions(frontend, messages, "truncate")] == [0, 1]
    with pytest.raises(Overflow, match="after truncate"):
        fit(frontend, messages, 5, "truncate", **PLAN)
    assert drop_turns(messages, 2) == ()


def test_a_step_that_is_there_no_more_is_an_error(frontend: Frontend) -> None:
    with pytest.raises(DataError, match="cannot be reduced 3 times"):
        reduce(frontend, talk(["One?"], ["Two?"]), "truncate", 3)
