from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import vlcore
from vlcore.config import GenerateConfig
from vlcore.generate import Pieces, StopCriterion, settled_text
from vlcore.messages import user
from vlcore.model import VLModel
from vlcore.template import ChatTemplate, Stop

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT, ROCKET = DATA / "images" / "cat_small.png", DATA / "images" / "rocket_square.png"
SHORT = GenerateConfig(max_new_tokens=6)


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint", dtype="fp32")


def test_a_batch_answers_as_each_row_alone(model: VLModel) -> None:
    conversations = [[user("Hello"),], [user("What is this?", [CAT])], [user("Compare", [CAT, ROCKET])]]
    together = model.answer(conversations, SHORT)
    alone = [model.answer([messages], SHORT)[0] for messages in conversations]
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]


def test_streamed_pieces_join_to_the_reply(model: VLModel) -> None:
    pieces = model.stream("What is this?", [CAT], settings=SHORT)
    text = ""
    while True:
        try:
            text += next(pieces)
        except StopIteration as end:
            reply = end.value
            break
    assert text == reply.text == model.chat("What is this?", [CAT], settings=SHORT).text


def test_pieces_hold_back_what_a_later_token_may_change(model: VLModel) -> None:
    pieces, tokenizer = Pieces(model.frontend), model.frontend.tokenizer
    ids = tokenizer.encode("Grün, 猫 and 👋🏽.")
    shown = [pieces.add(token) for token in ids]
    assert not any("\ufffd" in piece for piece in shown) and "" in shown
    assert "".join(shown) + pieces.close("Grün, 猫 and 👋🏽. Bye") == "Grün, 猫 and 👋🏽. Bye"


def test_leaving_a_stream_early_ends_its_thread(model: VLModel) -> None:
    before = threading.active_count()
    pieces = model.stream("Tell a story", settings=GenerateConfig(max_new_tokens=200))
    next(pieces)
    pieces.close()
    assert threading.active_count() == before


def test_usage_counts_prompt_media_and_answer(model: VLModel) -> None:
    reply = model.chat("What is this?", [CAT], settings=SHORT)
    example = model.encode([user("What is this?", [CAT])])
    assert reply.usage.prompt_tokens == len(example)
    assert reply.usage.image_tokens == sum(plan.tokens for plan in example.layout.plans) > 0
    assert reply.usage.completion_tokens == len(reply.token_ids) == 6
    assert reply.finish_reason == "length"


def test_history_goes_on_from_a_reply(model: VLModel) -> None:
    first = model.chat("What is this?", [CAT], settings=SHORT)
    second = model.chat("And now?", history=first.history, settings=SHORT)
    assert [message.role for message in second.history] == ["user", "assistant", "user", "assistant"]
    assert second.usage.image_tokens == first.usage.image_tokens


def test_a_seed_repeats_a_sampled_answer_and_leaves_the_random_state_alone(model: VLModel) -> None:
    settings = GenerateConfig(max_new_tokens=12, temperature=1.5, seed=3)
    state = torch.random.get_rng_state()
    assert model.chat("Hi", settings=settings).token_ids == model.chat("Hi", settings=settings).token_ids
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_answer_does_not_depend_on_what_was_asked_before(model: VLModel) -> None:
    before = model.chat("What is this?", [CAT], settings=SHORT)
    model.chat("word " * 400, [ROCKET], settings=SHORT)
    assert model.chat("What is this?", [CAT], settings=SHORT).token_ids == before.token_ids


class Letters:
    """A tokenizer of single characters."""

    pad_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]

    def token_id(self, token: str) -> int:
        return 1

    def strips_after(self, token: str) -> bool:
        return False

    def decode(self, ids: object) -> str:
        return "".join(chr(i) for i in ids if i > 1)  # type: ignore[attr-defined]


def test_a_stop_string_ends_a_row_where_it_is_complete() -> None:
    criterion = StopCriterion(Letters(), Stop(strings=("###",)), start=1)
    ids = torch.tensor([[9, *map(ord, "a##")], [9, *map(ord, "abc")]])
    assert criterion(ids, None).tolist() == [False, False]
    ids = torch.tensor([[9, *map(ord, "a###")], [9, *map(ord, "abcd")]])
    assert criterion(ids, None).tolist() == [True, False]
    assert criterion.cut(0, [*map(ord, "a###"), 0, 0]) == tuple(map(ord, "a###"))
    assert criterion.cut(1, [*map(ord, "abcd")]) == tuple(map(ord, "abcd"))


def test_ids_behind_a_stop_token_are_padding() -> None:
    criterion = StopCriterion(Letters(), Stop(tokens=("<end>",)), start=0)
    assert criterion.cut(0, [65, 1, 0, 0]) == (65, 1)


@pytest.mark.parametrize(
    ("text", "settled"), [("ab#", "ab"), ("ab##", "ab"), ("ab\ufffd", "ab"), ("ab ", "ab"), ("a#b", "a#b")]
)
def test_what_a_later_token_may_change_is_held_back(text: str, settled: str) -> None:
    template = ChatTemplate(roles={}, ends={}, stop=Stop(strings=("###",)))
    assert settled_text(template, text) == settled
