from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from PIL import Image as PilImage
from transformers import DynamicCache
from vlcore.batch import Example, Layout, load_pixels
from vlcore.cache import ROOM, RoomyLayer, start_cache
from vlcore.config import GenerateConfig
from vlcore.generate import answer_one, compiled_decoding, stream_answer
from vlcore.media import MediaProcessor
from vlcore.messages import Image, Message, make_message, user
from vlcore.model import VLModel
from vlcore.prefix import Medium, Passage, Prefix, digest_image, read_passage

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT, ROCKET = DATA / "images" / "cat_small.png", DATA / "images" / "rocket_square.png"
COFFEE = DATA / "images" / "coffee.png"
SHORT = GenerateConfig(max_new_tokens=5, temperature=0)
LONGER = GenerateConfig(max_new_tokens=12, temperature=0)
FAMILIES = {
    "InternLM2": "internvl/internvl-chat-v1_5-tiny", "Phi-3": "internvl/internvl2-4b-tiny",
    "Qwen3": "internvl/internvl3_5-1b-tiny", "Qwen-VL": "qwen_vl/qwen-vl-tiny",
    "DeepSeek-VL": "deepseek_vl/deepseek-vl-7b-chat-tiny", "Yi-VL": "yi_vl/yi-vl-6b-tiny",
}
#: Turns: a question and its pictures.
TURNS = (("What is this?", [CAT]), ("And here?", [ROCKET]), ("Who are you?", []), ("Compare them.", [COFFEE]))


@pytest.fixture(scope="module")
def load() -> Callable[[str], VLModel]:
    return cache(lambda name: vlcore.load_model(DATA / FAMILIES[name] / "checkpoint", dtype="fp32"))


@pytest.fixture(scope="module")
def model(load: Callable[[str], VLModel]) -> VLModel:
    return load("Qwen3")


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_talk_answers_as_without_reuse(load: Callable[[str], VLModel], family: str, sampled: bool) -> None:
    model = load(family)
    settings = GenerateConfig(max_new_tokens=5, temperature=1.2, seed=5) if sampled else SHORT
    session, reused = model.session(), 0
    for text, images in TURNS:
        reply = session.send(text, images, settings)
        (alone,) = model.answer([reply.history[:-1]], settings)
        assert reply.token_ids == alone.token_ids
        assert replace(reply.usage, cached_tokens=0) == alone.usage
        reused += reply.usage.cached_tokens > 0
    assert reused >= 2


@pytest.mark.parametrize("family", ["InternLM2", "Phi-3", "Qwen-VL"])
def test_keys_of_another_rotation_are_not_reused(
    load: Callable[[str], VLModel], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = load(family)
    first = len(model.encode([user("What is this?", [CAT])]))
    set_border(model, first + 60, monkeypatch)
    session = model.session()
    replies = [session.send(text, [CAT] if number == 0 else [], LONGER) for number, text in enumerate(["Hi"] * 6)]
    for reply in replies:
        assert reply.token_ids == model.answer([reply.history[:-1]], LONGER)[0].token_ids
    turns = [model.module.rotation_at(reply.usage.prompt_tokens) for reply in replies]
    alike = [turn == last for last, turn in pairwise(turns)]
    assert [reply.usage.cached_tokens > 0 for reply in replies[1:]] == alike
    assert {True, False} == set(alike)


def set_border(model: VLModel, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves the length beyond which a tiny model rotates in another way to where a talk is soon."""
    if hasattr(model.module.config.text_config, "seq_length"):
        monkeypatch.setattr(model.module.config.text_config, "seq_length", length)
    else:
        rotary = model.module.model.language_model.rotary_emb
        monkeypatch.setattr(rotary, "longest" if rotary.rope["rope_type"] == "dynamic" else "original", length)


def test_a_changed_earlier_turn_is_computed_again_from_where_it_differs(model: VLModel) -> None:
    prefix = Prefix(model)
    first_talk = [user("What is this?", [CAT]), answered("A cat."), user("And this?", [ROCKET])]
    talk = answer_one(model, first_talk, SHORT, prefix)
    changed = [user("What is this?", [CAT]), answered("A dog."), user("And this?", [ROCKET])]
    reply = answer_one(model, changed, SHORT, prefix)
    assert reply.token_ids == model.answer([changed], SHORT)[0].token_ids
    first = read_passage(model, model.frontend.plan([user("What is this?", [CAT])]))
    assert len(first.ids) <= reply.usage.cached_tokens < talk.usage.prompt_tokens - reply.usage.image_tokens // 2


def test_another_picture_of_the_same_size_is_not_taken_for_the_first(model: VLModel, tmp_path: Path) -> None:
    file, prefix = tmp_path / "shown.png", Prefix(model)
    colours = []
    for colour in ("red", "blue"):
        PilImage.new("RGB", (64, 64), colour).save(file)
        reply = answer_one(model, [user("What is this?", [file])], SHORT, prefix)
        colours.append(reply.token_ids)
        assert reply.token_ids == model.chat("What is this?", [file], settings=SHORT).token_ids
    place = read_passage(model, model.frontend.plan([user("What is this?", [file])])).media[0]
    assert reply.usage.cached_tokens == place.start


def test_media_that_are_computed_are_not_opened_again(model: VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session()
    session.send("What is this?", [CAT], SHORT)
    loaded = []

    def load(layout: Layout, media: MediaProcessor, known: int) -> Example:
        loaded.append(len(layout.slots) - known)
        return load_pixels(layout, media, known)

    monkeypatch.setattr("vlcore.generate.load_pixels", load)
    session.send("And this?", [ROCKET], SHORT)
    session.send("Well?", settings=SHORT)
    assert loaded == [1, 0]


def test_an_answer_left_early_keeps_what_was_computed(model: VLModel) -> None:
    prefix, asked = Prefix(model), [user("What is this?", [CAT])]
    pieces = stream_answer(model, asked, GenerateConfig(max_new_tokens=200, temperature=0), prefix)
    next(pieces)
    pieces.close()
    again = answer_one(model, asked, SHORT, prefix)
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    assert again.token_ids == model.answer([asked], SHORT)[0].token_ids


def test_an_error_while_answering_leaves_the_prefix_as_it_was(
    model: VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session()
    session.send("What is this?", [CAT], SHORT)
    before, held = session.prefix.passage, session.messages

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(model.module.lm_head, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.send("And this?", [ROCKET], SHORT)
    assert (session.prefix.passage, session.messages) == (before, held)
    reply = session.send("And this?", [ROCKET], SHORT)
    assert reply.usage.cached_tokens
    assert reply.token_ids == model.answer([reply.history[:-1]], SHORT)[0].token_ids


def test_beams_reuse_nothing_and_leave_the_prefix(model: VLModel) -> None:
    session = model.session()
    session.send("What is this?", [CAT], SHORT)
    before = session.prefix.passage
    beams = replace(SHORT, num_beams=2)
    reply = session.send("And?", settings=beams)
    assert (reply.usage.cached_tokens, session.prefix.passage) == (0, before)
    assert reply.token_ids == model.answer([reply.history[:-1]], beams)[0].token_ids


def test_clear_frees_what_was_computed(model: VLModel) -> None:
    session = model.session()
    session.send("What is this?", [CAT], SHORT)
    assert session.prefix.nbytes > 0
    session.clear()
    assert (len(session.prefix), session.prefix.nbytes) == (0, 0)


def test_copies_of_a_prefix_go_on_apart(model: VLModel) -> None:
    one = Prefix(model)
    start = [user("What is this?", [CAT])]
    answer_one(model, start, SHORT, one)
    other = one.copy()
    for prefix, text in ((one, "And?"), (other, "Why is it so?")):
        asked = [*start, answered("A cat."), user(text)]
        reply = answer_one(model, asked, SHORT, prefix)
        assert reply.usage.cached_tokens
        assert reply.token_ids == model.answer([asked], SHORT)[0].token_ids


def test_a_match_never_ends_inside_a_medium() -> None:
    one = Passage((1, 9, 9, 9, 2, 3), (Medium(1, 4, b"cat"),))
    assert one.match(one) == 6
    assert one.match(Passage((1, 9, 9, 9, 2, 3), (Medium(1, 4, b"dog"),))) == 1
    assert one.match(Passage((1, 9, 9, 9, 9, 3), (Medium(1, 5, b"cat"),))) == 1
    assert one.match(Passage((1, 9, 9), ())) == 1
    assert one.match(Passage((1, 9, 9, 9, 2, 4), (Medium(1, 4, b"cat"),))) == 5
    assert one.match(Passage(one.ids, one.media, rotation=3)) == 0


def test_a_picture_has_one_digest_as_file_and_bytes_and_another_for_other_pixels() -> None:
    file, inside = Image(CAT), Image(CAT.read_bytes())
    assert digest_image(file) == digest_image(inside) != digest_image(Image(ROCKET))
    with PilImage.open(CAT) as picture:
        opened = picture.convert("RGB")
    assert digest_image(Image(opened)) == digest_image(Image(opened.copy()))
    opened.putpixel((0, 0), (1, 2, 3))
    assert digest_image(Image(opened)) != digest_image(Image(PilImage.open(CAT).convert("RGB")))


def test_a_cache_with_room_holds_what_transformers_own_holds(model: VLModel) -> None:
    config = model.module.config.get_text_config(decoder=True)
    roomy, plain = start_cache(config), DynamicCache(config=config)
    assert all(isinstance(layer, RoomyLayer) for layer in roomy.layers)
    for length in (7, ROOM, 1, 1):
        keys, values = torch.rand(2, 1, 2, length, 4)
        ours, theirs = roomy.update(keys, values, 0), plain.update(keys, values, 0)
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert roomy.get_seq_length() == plain.get_seq_length()
    for held in (roomy, plain):
        held.crop(-5)
    keys, values = torch.rand(2, 1, 2, 3, 4)
    assert torch.equal(roomy.update(keys, values, 0)[0], plain.update(keys, values, 0)[0])


@pytest.mark.parametrize("family", ["Qwen-VL"])
def test_a_compiled_step_answers_alike_and_keeps_nothing(
    load: Callable[[str], VLModel], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    def trace_only(device: torch.device) -> dict[str, Any]:
        settings = compiled_decoding(device)
        settings["compile_config"].backend, settings["compile_config"].mode = "eager", None
        return settings

    monkeypatch.setattr("vlcore.generate.compiled_decoding", trace_only)
    session = load(family).session()
    for text in ("Hi", "And this, please?"):
        reply = session.send(text, [CAT], replace(SHORT, compile=True))
        assert reply.token_ids == load(family).answer([reply.history[:-1]], SHORT)[0].token_ids
    assert len(session.prefix) == reply.usage.cached_tokens == 0


def answered(text: str) -> Message:
    return make_message("assistant", text)
