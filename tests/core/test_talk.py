from __future__ import annotations

from pathlib import Path

import pytest
import vlcore
from vlcore.config import GenerateConfig
from vlcore.errors import MediaError, UsageError
from vlcore.model import VLModel

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT = DATA / "images" / "cat_small.png"
SHORT = GenerateConfig(max_new_tokens=3)


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint", dtype="fp32")


def test_a_session_answers_as_the_whole_conversation_would(model: VLModel) -> None:
    session = model.session()
    session.send("What is this?", [CAT], SHORT)
    second = session.send("And?", settings=SHORT)
    assert model.answer([second.history[:-1]], SHORT)[0].token_ids == second.token_ids


def test_a_failed_turn_leaves_the_session_as_it_was(model: VLModel) -> None:
    session = model.session("Be brief.")
    session.send("Hi", settings=SHORT)
    before = session.messages
    with pytest.raises(MediaError, match="no/such"):
        session.send("What?", ["/no/such.png"], SHORT)
    assert session.messages == before


def test_the_oldest_turns_are_forgotten_above_max_length_and_the_system_text_is_kept(model: VLModel) -> None:
    session = model.session("Be brief.", max_length=60)
    session.send("one two three four five six seven", settings=SHORT)
    with pytest.warns(UserWarning, match="max_length 60"):
        session.send("eight nine ten eleven twelve thirteen", settings=SHORT)
    assert [m.role for m in session.messages] == ["system", "user", "assistant"]


def test_a_question_that_alone_is_too_long_is_refused(model: VLModel) -> None:
    session = model.session(max_length=30)
    with pytest.raises(UsageError, match="max_length is 30"):
        session.send("word " * 60, settings=SHORT)
