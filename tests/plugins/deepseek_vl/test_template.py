from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image as PilImage
from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Text, Video, make_message
from vlcore.model import Frontend, build_frontend
from vlcore.parity import Case, read_case
from vlcore.resolve import Checkpoint
from vlcore.template import Segment
from vlcore_deepseek_vl.template import SYSTEM, strip_ends

PICTURE = Image(PilImage.new("RGB", (30, 20)))
EOS = "<｜end▁of▁sentence｜>"


@pytest.fixture(scope="module")
def frontend(tiny: Callable[..., Checkpoint]) -> Frontend:
    return build_frontend(tiny())


def talk(*texts: str, system: str | None = "") -> list[Message]:
    roles: Sequence[Any] = ("user", "assistant") * len(texts)
    turns = [make_message(role, text) for role, text in zip(roles, texts, strict=False)]
    return turns if system is None else [make_message("system", system), *turns]


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        (talk("Hi", system=None), f"{SYSTEM}\n\nUser: Hi\n\nAssistant:"),
        (talk("Hi"), "User: Hi\n\nAssistant:"),
        (talk("Hi", system=" \n"), "User: Hi\n\nAssistant:"),
        (talk("Hi", system=" Be brief. "), "Be brief. \n\nUser: Hi\n\nAssistant:"),
        (talk("  a\n", "\n b ", " c"), f"User: a\n\nAssistant: b{EOS}User: c\n\nAssistant:"),
        (talk("", "", "c"), "User:Assistant:User: c\n\nAssistant:"),
    ],
)
def test_prompts_are_written_as_the_release_writes_them(
    messages: list[Message], prompt: str, frontend: Frontend
) -> None:
    assert frontend.plan(messages).prompt == prompt


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_prompt_begins_with_exactly_one_begin_token(hybrid: bool, tiny: Callable[..., Checkpoint]) -> None:
    frontend = build_frontend(tiny(hybrid))
    bos = frontend.tokenizer.token_id("<｜begin▁of▁sentence｜>")
    ids = frontend.plan(talk("Hi", "<｜begin▁of▁sentence｜>", "a")).ids
    assert ids[0] == bos and ids.count(bos) == 1


def test_recorded_conversations_give_the_recorded_ids(recorded: Checkpoint) -> None:
    frontend = build_frontend(recorded)
    for path in sorted((recorded.folder.parent / "cases").glob("*.json")):
        case: Case = read_case(path)
        layout = frontend.plan(case.messages, train=case.train)
        expected = json.loads(path.read_text(encoding="utf8"))
        assert list(layout.ids) == expected["input_ids"], path.stem
        assert list(layout.labels) == expected.get("labels", [-100] * len(layout)), path.stem


def test_answers_and_their_ends_are_trained_and_nothing_else(frontend: Frontend) -> None:
    layout = frontend.plan(talk("a", " b ", "c", "d"), train=True)
    trained = [token for token in layout.labels if token != -100]
    eos = frontend.tokenizer.token_id(EOS)
    encode = frontend.tokenizer.encode
    assert trained == [*encode(" b"), eos, *encode(" d"), eos]


def test_both_ways_to_count_the_loss_agree(frontend: Frontend) -> None:
    messages = talk("a", "b")
    assert frontend.plan(messages, train=True, loss_on="release") == frontend.plan(messages, train=True)


def test_training_gives_an_answer_the_ids_that_the_open_prompt_leaves_for_it(frontend: Frontend) -> None:
    asked = frontend.plan(talk("a", "b", "c"))
    trained = frontend.plan(talk("a", "b", "c", "d"), train=True)
    assert trained.ids[: len(asked)] == asked.ids


def test_media_stand_where_they_are_given_with_nothing_between(frontend: Frontend) -> None:
    content = (Text(" a "), PICTURE, PICTURE, Text("b "))
    layout = frontend.plan([make_message("system", ""), Message("user", content)])
    assert layout.prompt == "User: a <image_placeholder><image_placeholder>b\n\nAssistant:"
    assert layout.ids.count(frontend.media.image_token_id) == 2 * 36


@pytest.mark.parametrize("tag", ["<image>", "<image_placeholder>"])
def test_tags_place_images(tag: str, frontend: Frontend) -> None:
    message = Message("user", (PICTURE, Text(f"Look: {tag}, nice")))
    assert frontend.plan([make_message("system", ""), message]).prompt == (
        "User: Look: <image_placeholder>, nice\n\nAssistant:"
    )


@pytest.mark.parametrize(
    "content",
    [
        (Text("<image_placeholder> what?"),),
        (PICTURE, Text("<image_placeholder> and <image_placeholder>")),
        (PICTURE, PICTURE, Text("<image_placeholder>")),
    ],
)
def test_placeholders_and_images_that_differ_in_number_are_an_error(
    content: tuple[Any, ...], frontend: Frontend
) -> None:
    with pytest.raises(UsageError, match="a user turn with"):
        frontend.plan([Message("user", content)])


def test_a_placeholder_in_an_answer_is_text(frontend: Frontend) -> None:
    layout = frontend.plan(talk("a", "<image_placeholder>", "b"))
    assert frontend.media.image_token_id not in layout.ids


def test_turns_out_of_order_are_an_error(frontend: Frontend) -> None:
    with pytest.raises(UsageError, match="turns alternate"):
        frontend.plan([make_message("assistant", "a"), make_message("user", "b")])


def test_a_video_is_an_error(frontend: Frontend) -> None:
    with pytest.raises(UsageError, match="takes images only"):
        frontend.plan([Message("user", (Video(frames=(PICTURE,)),))])


def test_an_answer_keeps_its_blanks(frontend: Frontend) -> None:
    assert frontend.template.clean_answer(" a\n") == " a\n"


@pytest.mark.parametrize(
    ("pieces", "left"),
    [([" a "], ["a"]), ([" ", "\n a", "b ", " "], ["a", "b"]), ([" "], []), ([" ", None, " b"], [None, " b"[:2]])],
)
def test_white_space_goes_from_the_outer_ends_only(pieces: list[str | None], left: list[str | None]) -> None:
    segments = [Segment("x", "media") if piece is None else Segment(piece) for piece in pieces]
    assert [None if s.kind == "media" else s.text for s in strip_ends(segments)] == left
