from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import vlcore
from vlcore.config import GenerateConfig
from vlcore.console import LINE, Talk, Terminal
from vlcore.family import AskMedia
from vlcore.messages import Image
from vlcore.model import VLModel
from vlcore.talk import Session

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT, ROCKET = str(DATA / "images" / "cat_small.png"), str(DATA / "images" / "rocket_square.png")


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint", dtype="fp32")


class Played:
    """A talk played from lines, with everything that was shown."""

    def __init__(
        self, model: VLModel, lines: Iterable[str], ask: AskMedia = "tag", opening: Iterable[Image] = ()
    ) -> None:
        self.prompts: list[str] = []
        self.shown = ""
        self.session = Session(model)
        waiting = iter(lines)

        def read(prompt: str) -> str:
            self.prompts.append(prompt)
            try:
                return next(waiting)
            except StopIteration:
                raise EOFError from None

        def write(text: str) -> None:
            self.shown += text

        Talk(self.session, Terminal(read, write), ask, GenerateConfig(max_new_tokens=3), tuple(opening)).run()

    @property
    def media(self) -> list[int]:
        return [len(message.media) for message in self.session.messages if message.role == "user"]


def test_each_tag_typed_asks_for_its_medium(model: VLModel) -> None:
    talk = Played(model, ["<image>What?", CAT, "And?", "<image><image>Compare", ROCKET, CAT, "exit"])
    ask = "Input an image path or URL <<< "
    assert talk.prompts == ["<<< ", ask, "<<< ", "<<< ", ask, ask, "<<< "]
    assert talk.media == [1, 0, 2]
    assert talk.shown.count(LINE) == 3


def test_every_turn_asks_and_an_empty_line_means_no_image(model: VLModel) -> None:
    talk = Played(model, ["What?", CAT, "Who are you?", "", "quit"], ask="turn")
    assert talk.prompts == ["<<< ", "Input a media path or URL <<< "] * 2 + ["<<< "]
    assert talk.media == [1, 0]


def test_a_conversation_asks_until_it_has_its_image_and_again_after_clear(model: VLModel) -> None:
    talk = Played(model, ["Hi", "", "What?", CAT, "More?", "clear", "Now?", ROCKET], ask="conversation")
    asked = [prompt.startswith("Input") for prompt in talk.prompts]
    assert asked == [False, True, False, True, False, False, False, True, False]
    assert talk.media == [1]


def test_images_inside_the_text_are_not_asked_for(model: VLModel) -> None:
    talk = Played(model, [f"one: <img>{CAT}</img> two: <img>{ROCKET}</img> differ how?"], ask="turn")
    assert talk.media == [2]
    assert talk.prompts == ["<<< ", "<<< "]


def test_an_unreadable_medium_is_one_line_and_the_talk_stays_as_it_was(model: VLModel) -> None:
    talk = Played(model, ["<image>What?", CAT, "<image>Again?", "/no/such.png", "And?"])
    assert talk.shown.count("[ERROR] image /no/such.png") == 1
    assert talk.media == [1, 0]


def test_multi_line_input_ends_with_a_number_sign(model: VLModel) -> None:
    talk = Played(model, ["multi-line", "one", "two#", "single-line", "three"])
    assert talk.prompts == ["<<< ", "<<<[M] ", "", "<<<[M] ", "<<< ", "<<< "]
    assert [m.text for m in talk.session.messages if m.role == "user"] == ["one\ntwo", "three"]


def test_reset_system_takes_a_new_text_and_forgets(model: VLModel) -> None:
    talk = Played(model, ["Hi", "reset-system", "You are a poet.", "Hello"])
    assert talk.prompts == ["<<< ", "<<< ", "<<<[S] ", "<<< ", "<<< "]
    assert [m.role for m in talk.session.messages] == ["system", "user", "assistant"]
    assert talk.session.messages[0].text == "You are a poet."


def test_clear_keeps_the_system_text(model: VLModel) -> None:
    talk = Played(model, ["reset-system", "You are a poet.", "Hello", "clear"])
    assert [m.role for m in talk.session.messages] == ["system"]


def test_opening_pictures_come_with_the_first_question_only(model: VLModel) -> None:
    talk = Played(model, ["What?", "And?", ""], ask="turn", opening=[Image(CAT)])
    assert talk.media == [1, 0]
