"""Talks that share a model: turns, stopping, another answer, and who waits for whom."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from vlcore import talk as talk_module
from vlcore.config import RELEASE_SETTINGS, GenerateConfig
from vlcore.errors import MediaError, UsageError
from vlcore.generate import Reply, Usage
from vlcore.messages import make_message, user
from vlcore.serve.served import open_served
from vlcore.web.settings import WebConfig, find_models
from vlcore.web.talk import Models, Talk

SHORT = GenerateConfig(max_new_tokens=4, temperature=0)


@pytest.fixture(scope="module")
def models(release: Path, adapter: Path) -> Models:
    return Models(open_served(find_models(WebConfig(model=str(release), adapter=(f"tuned={adapter}",)))))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers: the question's words, numbers without an end for `count`, an error for `fail`."""

    def answer(model: Any, messages: Any, settings: Any, prefix: Any = None) -> Any:
        asked = messages[-1].text
        if asked == "fail":
            raise MediaError("image", "it is damaged", "give another")
        for word in map(str, itertools.count()) if asked == "count" else asked.split():
            yield f"{word} "
            time.sleep(0.001)
        return Reply(asked, (), Usage(0, 0, 0), "stop", (*messages, make_message("assistant", asked)))

    monkeypatch.setattr(talk_module, "stream_answer", answer)


def run(work: Callable[[], Coroutine[Any, Any, Any]], models: Models) -> Any:
    models.turn = asyncio.Lock()  # of this run's event loop
    return asyncio.run(work())


def texts(talk: Talk) -> list[str]:
    return [message.text for message in talk.messages]


async def stop_after(talk: Talk, ask: Callable[[Callable[[str], None]], Any], words: int) -> bool:
    return await ask(lambda said: talk.stop() if len(said.split()) >= words else None)


def test_tiny_model_answers_and_remembers(models):
    talk, seen = Talk(models), []
    assert run(lambda: talk.ask(user("What is this?"), SHORT, seen.append), models)
    assert [message.role for message in talk.messages] == ["user", "assistant"]
    assert seen[-1] == talk.messages[-1].text


def test_system_text_is_kept_when_the_talk_is_cleared(models, script):
    talk = Talk(models, system="Be short.")
    run(lambda: talk.ask(user("one"), RELEASE_SETTINGS, print), models)
    assert texts(talk) == ["Be short.", "one", "one"]
    talk.clear()
    assert texts(talk) == ["Be short."]


def test_stopped_answer_is_remembered_as_far_as_it_went(models, script):
    talk = Talk(models)
    run(lambda: stop_after(talk, lambda show: talk.ask(user("count"), SHORT, show), 3), models)
    assert texts(talk) == ["count", "0 1 2 "]


def test_another_answer_takes_the_place_of_the_last(models, script):
    talk = Talk(models)
    run(lambda: stop_after(talk, lambda show: talk.ask(user("count"), SHORT, show), 3), models)
    run(lambda: stop_after(talk, lambda show: talk.ask_again(SHORT, show), 5), models)
    assert texts(talk) == ["count", "0 1 2 3 4 "]


def test_failed_question_leaves_the_talk_as_it_was(models, script):
    talk = Talk(models)
    run(lambda: talk.ask(user("one"), SHORT, print), models)
    with pytest.raises(MediaError):
        run(lambda: talk.ask(user("fail"), SHORT, print), models)
    assert texts(talk) == ["one", "one"]
    assert not talk.answering


def test_another_answer_that_fails_leaves_the_last(models, script, monkeypatch):
    talk = Talk(models)
    run(lambda: talk.ask(user("one"), SHORT, print), models)

    def broken(*_: Any) -> Any:
        raise MediaError("image", "it is damaged", "give another")

    monkeypatch.setattr(talk_module, "stream_answer", broken)
    with pytest.raises(MediaError):
        run(lambda: talk.ask_again(SHORT, print), models)
    assert texts(talk) == ["one", "one"]


def test_two_talks_take_turns_and_do_not_mix(models, script):
    one, two = Talk(models), Talk(models)
    order: list[str] = []

    async def both() -> None:
        await asyncio.gather(one.ask(user("a b c"), SHORT, lambda _: order.append("one")),
                             two.ask(user("d e f"), SHORT, lambda _: order.append("two")))

    run(both, models)
    assert order == ["one"] * 3 + ["two"] * 3
    assert (texts(one), texts(two)) == (["a b c", "a b c"], ["d e f", "d e f"])


def test_talk_that_is_stopped_while_it_waits_is_not_answered(models, script):
    one, two = Talk(models), Talk(models)

    async def both() -> tuple[bool, bool]:
        first = asyncio.create_task(one.ask(user("count"), SHORT, lambda _: None))
        await asyncio.sleep(0)
        second = asyncio.create_task(two.ask(user("two"), SHORT, print))
        await asyncio.sleep(0)
        two.stop()
        await asyncio.sleep(0.05)
        one.stop()
        return await first, await second

    assert run(both, models) == (True, False)
    assert texts(two) == []


def test_adapter_answers_otherwise_and_the_model_as_before(models):
    def answer(name: str) -> str:
        talk = Talk(models)
        talk.choose(name)
        run(lambda: talk.ask(user("What is this?"), GenerateConfig(max_new_tokens=8, temperature=0), print), models)
        return texts(talk)[-1]

    base = answer("tiny-vl")
    assert answer("tuned") != base
    assert answer("tiny-vl") == base


def test_talk_goes_on_with_another_model(models, script):
    talk = Talk(models)
    run(lambda: talk.ask(user("one"), SHORT, print), models)
    talk.choose("tuned")
    run(lambda: talk.ask(user("two"), SHORT, print), models)
    assert texts(talk) == ["one", "one", "two", "two"]


def test_talk_is_written_as_a_row_with_its_pictures(models, script, make_picture):
    talk = Talk(models)
    data = make_picture().read_bytes()
    run(lambda: talk.ask(user("what", [data]), SHORT, print), models)
    (line,) = talk.write().splitlines()
    question, answer = json.loads(line)["messages"]
    assert [part["type"] for part in question["content"]] == ["image", "text"]
    assert question["content"][0]["image"].startswith("data:;base64,")
    assert answer["content"] == [{"type": "text", "text": "what"}]


def test_talk_without_an_answer_can_neither_be_written_nor_answered_again(models):
    talk = Talk(models)
    with pytest.raises(UsageError, match="nothing has been answered yet"):
        talk.write()
    with pytest.raises(UsageError, match="nothing has been asked yet"):
        run(lambda: talk.ask_again(SHORT, print), models)


def test_talk_that_is_answering_refuses_everything_else(models, script):
    talk = Talk(models)

    async def meddle() -> None:
        asking = asyncio.create_task(talk.ask(user("count"), SHORT, lambda _: None))
        await asyncio.sleep(0)
        for change in (talk.clear, lambda: talk.choose("tuned")):
            with pytest.raises(UsageError, match="an answer is being made"):
                change()
        with pytest.raises(UsageError, match="an answer is being made"):
            await talk.ask(user("two"), SHORT, print)
        talk.stop()
        await asking

    run(meddle, models)
