"""Native models answer as transformers' own `generate`, alone, in batches, in talks and in a server's lane."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import Queue
from typing import Any

import pytest
import torch
from vlcore.batch import collate
from vlcore.config import GenerateConfig
from vlcore.errors import UsageError
from vlcore.generate import answer_one, native_settings
from vlcore.messages import Message, user
from vlcore.model import VLModel
from vlcore.native.kinds import KINDS
from vlcore.prefix import Prefix, read_passage
from vlcore.serve.engine import Engine
from vlcore.serve.job import Ended, Job
from vlcore.serve.shelf import Shelf

SHORT = GenerateConfig(max_new_tokens=6, temperature=0.0, repetition_penalty=1.0)
#: Model types that stand for others of their kind; those that take more than one turn; and those of them whose caches
#: hold keys and values alone.
TRIED = [model_type for model_type in KINDS if model_type not in ("vipllava", "qwen3_vl_moe", "qwen3_5_moe")]
TALKING = [model_type for model_type in TRIED if model_type != "paligemma"]
KEEPING = [model_type for model_type in TALKING if not model_type.startswith("qwen3_5")]
#: Those that feed a server's rows in ways of their own.
SERVED = ("llava", "llava_next", "llava_onevision", "qwen2_vl", "idefics3", "gemma3", "paligemma")
Open = Callable[[str], VLModel]


def ask(pictures: list[Any]) -> list[tuple[Message, ...]]:
    return [(user("What is this?", pictures[:1]),), (user("And these, which are two?", pictures[1:3]),),
            (user("Well?", pictures[3:]),)]


@pytest.mark.parametrize("model_type", TRIED)
def test_answers_are_those_of_transformers_generate(model_type: str, native_model: Open, pictures: list[Any]) -> None:
    model = native_model(model_type)
    module: Any = model.module
    for messages in ask(pictures):
        example = model.encode(messages)
        ids = torch.tensor([example.ids])
        fed = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **example.pixels}
        kinds = {"mm_token_type_ids", "token_type_ids"} & model.frontend.media.inputs  # type: ignore[attr-defined]
        if model_type != "paligemma":
            marks = torch.tensor(model.checkpoint.processor.image_token_ids)
            fed |= {name: torch.isin(fed["input_ids"], marks).long() for name in kinds}
        else:
            fed |= {name: torch.zeros(1, len(example), dtype=torch.long) for name in kinds}
        stops = [model.frontend.tokenizer.token_id(name) for name in model.frontend.template.stop.tokens]
        wanted = module.generate(**fed, max_new_tokens=6, do_sample=False, eos_token_id=stops, pad_token_id=0)
        (reply,) = model.answer([messages], SHORT)
        assert list(reply.token_ids) == wanted[0, len(example) :].tolist()


@pytest.mark.parametrize("model_type", TRIED)
def test_a_row_of_a_batch_is_what_it_is_alone(model_type: str, native_model: Open, pictures: list[Any]) -> None:
    model = native_model(model_type)
    rows = ask(pictures) if model_type == "paligemma" else [*ask(pictures), (user("No picture."),)]
    assert [reply.token_ids for reply in model.answer(rows, SHORT)] == [
        model.answer([row], SHORT)[0].token_ids for row in rows]
    examples = [model.encode(row) for row in rows]
    for side in ("left", "right"):
        batch = model.place(collate(examples, 0, side))
        with torch.no_grad():
            logits = model.module(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        for row, example in zip(logits, examples, strict=True):
            own = row[-len(example) :] if side == "left" else row[: len(example)]
            torch.testing.assert_close(own, model.compute_logits(example)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", TALKING)
def test_a_talk_computes_what_is_new_and_answers_as_without(
    model_type: str, native_model: Open, pictures: list[Any]
) -> None:
    model = native_model(model_type)
    session, history, cached = model.session(), (), []
    for text, images in (("What is this?", pictures[:1]), ("And these?", pictures[1:3]), ("Who are you?", []),
                         ("And this?", pictures[3:])):
        reply = session.send(text, images, SHORT)
        (wanted,) = model.answer([(*history, user(text, images))], SHORT)
        assert reply.token_ids == wanted.token_ids
        cached.append(reply.usage.cached_tokens)
        history = wanted.history
    assert cached == sorted(cached)
    assert cached[0] == 0
    assert (cached[1] > 0) == (model_type in KEEPING)
    assert (cached[2] > model.frontend.plan(history[:3]).spans[-1][1]) == (model_type in KEEPING)


def test_a_model_whose_prompt_looks_both_ways_takes_nothing_of_another_prompt(
    native_model: Open, pictures: list[Any]
) -> None:
    model = native_model("paligemma")
    first, other = ([user(text, pictures[:1])] for text in ("What is this?", "What is that?"))
    prefix = Prefix(model)
    reply = answer_one(model, first, SHORT, prefix)
    plans = [read_passage(model, model.frontend.plan(messages)) for messages in (first, other)]
    assert prefix.match(plans[0]) == len(plans[0].ids) - 1
    assert prefix.match(plans[1]) == 0
    again = answer_one(model, first, SHORT, prefix)
    assert again.token_ids == reply.token_ids
    assert again.usage.cached_tokens
    session = model.session()
    session.send("What is this?", pictures[:1], SHORT)
    with pytest.raises(UsageError, match="the model answers one question"):
        session.send("And now?", settings=SHORT)


def test_a_window_that_has_lost_its_oldest_keys_is_not_reused(
    native_model: Open, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native_model("gemma3")
    monkeypatch.setattr(model.module.config.get_text_config(), "sliding_window", 16)
    session, history = model.session(), ()
    for text in ("What is this?", "And what is it for?"):
        reply = session.send(text, pictures[:1], SHORT)
        (wanted,) = model.answer([(*history, user(text, pictures[:1]))], SHORT)
        assert reply.token_ids == wanted.token_ids
        assert reply.usage.cached_tokens == 0
        history = wanted.history
    check_lane(model, ask(pictures), shelf=0)


def check_lane(model: VLModel, asked: list[tuple[Message, ...]], shelf: int) -> list[int]:
    """Holds what a server answers at once to what each is alone; positions of each that were known before."""
    wanted = [model.answer([messages], SHORT)[0] for messages in asked]
    engine = Engine(model, places=2, prefill=400, shelf=Shelf(shelf))
    engine.start()
    known = []
    for _ in range(2):
        told: Queue[tuple[int, Any]] = Queue()

        def tell(number: int, event: Any, told: Queue[tuple[int, Any]] = told) -> None:
            told.put((number, event))

        for number, messages in enumerate(asked):
            example = model.encode(messages)
            engine.submit(Job(example, native_settings(model, SHORT), model.frontend.template.stop,
                              partial(tell, number), passage=read_passage(model, example.layout)))
        ends = dict(told.get(timeout=60) for _ in asked)
        assert all(isinstance(end, Ended) for end in ends.values()), ends
        assert [ends[number].ids for number in range(len(asked))] == [reply.token_ids for reply in wanted]
        known = [ends[number].cached for number in range(len(asked))]
    engine.close()
    return known


@pytest.mark.parametrize("model_type", SERVED)
def test_a_server_answers_at_once_what_each_is_alone(model_type: str, native_model: Open, pictures: list[Any]) -> None:
    model = native_model(model_type)
    asked = ask(pictures)
    if model_type in TALKING:
        first = model.answer([asked[1]], SHORT)[0]
        asked = [asked[1], (*first.history, user("And this one?", pictures[3:])), (user("No picture."),)]
    assert all(check_lane(model, asked, shelf=10**9))


def test_a_model_that_keeps_more_than_keys_and_values_is_not_served(native_model: Open) -> None:
    with pytest.raises(UsageError, match="its cache holds more than keys and values; use vlcore infer"):
        Engine(native_model("qwen3_5"))


def test_a_video_is_its_frames(native_model: Open, pictures: list[Any], tmp_path: Any) -> None:
    for number in range(20):
        pictures[0].rotate(number).save(tmp_path / f"{number:02}.png")
    model = native_model("llava")
    film = model.frontend.fetch([user("<video>What happens?", videos=[tmp_path])])
    frames: Any = film[0].content[0]
    assert len(frames.frames) == 8
    of_frames = model.encode([user("What happens?", list(frames.frames))])
    assert model.encode(film).ids == of_frames.ids
    assert len(model.encode([user("<video>What?", videos=[tmp_path])], num_frames=3).layout.slots) == 3
