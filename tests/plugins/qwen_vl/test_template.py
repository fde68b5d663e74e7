from __future__ import annotations

import logging
from typing import Any

import pytest
from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Text, make_message, read_inline, user
from vlcore.model import Frontend, build_frontend
from vlcore.template import render_prompt

CAT, DOG = Image("cat.png"), Image("dog.png")
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.fixture
def chat(tiny) -> Frontend:
    return build_frontend(tiny())


@pytest.fixture
def base(tiny) -> Frontend:
    return build_frontend(tiny("base"))


def assistant(text: str) -> Message:
    return make_message("assistant", text)


def show(frontend: Frontend, *messages: Message, **options: Any) -> str:
    return render_prompt(frontend.write_segments(messages, **options)).removeprefix(HEAD)


def list_trained(frontend: Frontend, *messages: Message, **options: Any) -> list[str]:
    segments = frontend.write_segments(messages, train=True, **options)
    return [segment.text for segment in segments if segment.trained and segment.text]


def test_a_question_stands_between_its_marks_behind_the_default_system_text(chat: Frontend) -> None:
    prompt = render_prompt(chat.write_segments([user("Hi")]))
    assert prompt == HEAD + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_another_system_text_replaces_the_default(chat: Frontend) -> None:
    prompt = render_prompt(chat.write_segments([make_message("system", "Rhyme."), user("Hi")]))
    assert prompt.startswith("<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user")


def test_pictures_get_a_number_and_a_line_where_they_stand(chat: Frontend) -> None:
    message = make_message("user", ["First ", CAT, "then ", DOG, "which?"])
    text = "First Picture 1: <img>cat.png</img>\nthen Picture 2: <img>dog.png</img>\nwhich?"
    assert show(chat, message) == f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("numbering, second", [
    ("turn", "Picture 1: <img>dog.png</img>\n"), ("conversation", "Picture 2: <img>dog.png</img>\n"),
    ("none", "<img>dog.png</img>"),
])
def test_later_turns_are_numbered_as_the_option_says(chat: Frontend, numbering: str, second: str) -> None:
    talk = (user("a", [CAT]), assistant("b"), user("c", [DOG]))
    assert f"user\n{second}c<|im_end|>" in show(chat, *talk, picture_numbering=numbering)


def test_another_numbering_is_refused(chat: Frontend) -> None:
    with pytest.raises(UsageError, match="turn, conversation, none"):
        show(chat, user("a", [CAT]), picture_numbering="row")


def test_a_number_that_the_user_wrote_is_not_written_again(chat: Frontend) -> None:
    text, images = read_inline("Picture 1:<img>cat.png</img>\nPicture 2:<img>dog.png</img>\nWhat differs?")
    asked = show(chat, make_message("user", [*images, text]))
    assert "user\nPicture 1:<img>cat.png</img>\nPicture 2:<img>dog.png</img>\nWhat differs?<|im_end|>" in asked
    parts = make_message("user", ["Picture 3: ", CAT, "\nWhat?"])
    assert "user\nPicture 3: <img>cat.png</img>\nWhat?<|im_end|>" in show(chat, parts)


def test_nothing_is_added_at_a_tag(chat: Frontend) -> None:
    assert "user\nIs <img>cat.png</img> a cat?<|im_end|>" in show(chat, user("Is <image> a cat?", [CAT]))


def test_tags_and_pictures_must_agree_in_number(chat: Frontend) -> None:
    with pytest.raises(UsageError, match="2 media tags"):
        show(chat, user("<image><image>", [CAT]))


def test_grounding_marks_are_tokens_and_all_other_marks_are_text(chat: Frontend) -> None:
    typed = "<box>(1,2),(3,4)</box> <|im_end|><|endoftext|><imgpad><img>"
    segments = chat.write_segments([user(typed), assistant("<ref>x</ref>"), user("y")])
    special = [segment.text for segment in segments if segment.kind == "special" and segment.text]
    assert special.count("<box>") == special.count("</box>") == special.count("<ref>") == 1
    assert special.count("<|im_end|>") == 4 and not {"<|endoftext|>", "<imgpad>", "<img>"} & set(special)


def test_a_leading_newline_is_tokenized_apart_from_the_role(chat: Frontend) -> None:
    ids = chat.plan([user("\n\nHi")]).ids
    role, text = chat.tokenizer.encode("user\n"), chat.tokenizer.encode("\n\nHi")
    assert str([*role, *text])[1:-1] in str(list(ids))


def test_answers_and_their_ends_are_trained_and_nothing_else(chat: Frontend) -> None:
    talk = (user("a", [CAT]), assistant("b"), user("c"), assistant("<ref>d</ref>"))
    assert list_trained(chat, *talk) == ["b", "<|im_end|>", "<ref>", "d", "</ref>", "<|im_end|>"]
    silent = (user("a"), make_message("assistant", "b", trained=False), user("c"), assistant("d"))
    assert list_trained(chat, *silent) == ["d", "<|im_end|>"]


def test_the_releases_training_counts_the_marks_of_every_turn(chat: Frontend) -> None:
    marks = ["<|im_start|>", "<|im_end|>", "\n"]
    expected = [*marks, *marks, "<|im_start|>", "b", "<|im_end|>", "\n"]
    assert list_trained(chat, user("a"), assistant("b"), loss_on="release") == expected


def test_ids_of_a_training_row_begin_with_those_of_its_prompt(chat: Frontend, base: Frontend) -> None:
    for frontend in (chat, base):
        prompt, row = frontend.plan([user("\na")]).ids, frontend.plan([user("\na"), assistant("\nb")], train=True).ids
        assert row[: len(prompt)] == prompt


def test_history_beyond_the_window_is_left_out_oldest_first_with_a_word(chat: Frontend, caplog) -> None:
    talk = (user("one", [CAT]), assistant("1"), user("two"), assistant("2"), user("three"))
    whole = len(chat.plan([*talk[2:4], user("x")]).ids) - len(chat.plan([user("x")]).ids)
    system = len(chat.tokenizer.encode("system\nYou are a helpful assistant.")) + 2
    with caplog.at_level(logging.WARNING):
        assert "one" not in show(chat, *talk, max_window_size=system + whole + 1)
    assert "1 turns of history" in caplog.text
    assert "two" in show(chat, *talk, max_window_size=system + whole + 1)
    assert "two" not in show(chat, *talk, max_window_size=system + whole)
    assert "one" in show(chat, *talk)


def test_training_rows_are_never_cut_by_the_window(chat: Frontend) -> None:
    talk = (user("one"), assistant("1"), user("two"), assistant("2"))
    assert "one" in show(chat, *talk, train=True, max_window_size=1)


def test_the_base_model_goes_on_with_the_bare_text(base: Frontend) -> None:
    assert show(base, user("The sea is")) == "The sea is"
    assert show(base, user("<image>Caption:", [CAT])) == "<img>cat.png</img>Caption:"
    assert show(base, user("Caption:", [CAT])) == "Picture 1: <img>cat.png</img>\nCaption:"


def test_an_answer_of_the_base_model_ends_with_the_end_of_text(base: Frontend) -> None:
    assert list_trained(base, user("a"), assistant("b")) == ["b", "<|endoftext|>"]
    assert base.template.stop.tokens == ("<|endoftext|>",)


def test_the_releases_training_of_the_base_model_is_in_turns(base: Frontend) -> None:
    segments = base.write_segments([user("a"), assistant("b")], train=True, loss_on="release")
    assert render_prompt(segments).startswith(HEAD)


def test_a_chat_answer_is_stripped_and_a_base_answer_is_not(chat: Frontend, base: Frontend) -> None:
    assert chat.template.clean_answer(" a <|im_end|> b\n") == "a <|im_end|> b"
    assert base.template.clean_answer(" a") == " a"


def test_pictures_in_memory_leave_no_path_in_the_prompt(chat: Frontend) -> None:
    assert "<img></img>" in show(chat, make_message("user", [Image(b"bytes"), Text("x")]))
