import pytest
from vlcore.errors import UsageError
from vlcore.messages import Image, Text, Video, make_message, user
from vlcore.template import (
    ChatTemplate,
    EncodeOptions,
    Segment,
    Stop,
    check_order,
    place_tagged,
    render_prompt,
    split_tokens,
)

TEMPLATE = ChatTemplate(
    roles={"system": "[s]", "user": "[u]", "assistant": "[a]"},
    ends={"system": "[e]", "user": "[e]", "assistant": "[e]"},
    after="\n",
    specials=frozenset({"[s]", "[u]", "[a]", "[e]", "[i]", "[/i]", "[bos]"}),
    typed=frozenset({"<box>"}),
    prefix="[bos]",
    system="Be kind.",
    image="[i]<image>[/i]",
    stop=Stop(("[e]",), ("###",)),
)
ASK, REPLY = user("Hi"), make_message("assistant", "Yo")
CAT, DOG, FILM = Image("cat.png"), Image("dog.png"), Video("film.mp4")


def write(*messages, template=TEMPLATE, train=False):
    return template.write_segments(messages, EncodeOptions(train))


def test_prompt_is_the_table_with_an_open_turn_at_the_end():
    assert render_prompt(write(ASK)) == "[bos][s]Be kind.[e]\n[u]Hi[e]\n[a]"
    assert render_prompt(write(ASK, REPLY, ASK)) == "[bos][s]Be kind.[e]\n[u]Hi[e]\n[a]Yo[e]\n[u]Hi[e]\n[a]"


def test_training_text_starts_with_the_prompt_and_ends_behind_the_answer():
    trained = render_prompt(write(ASK, REPLY, train=True))
    assert trained == render_prompt(write(ASK)) + "Yo[e]\n"


def test_own_system_text_replaces_the_default():
    own = make_message("system", "Be short.")
    assert "[s]Be short.[e]" in render_prompt(write(own, ASK))
    assert "Be kind." not in render_prompt(write(own, ASK))


def test_empty_system_text_is_an_empty_system_turn_and_no_default():
    assert render_prompt(write(make_message("system", ""), ASK)).startswith("[bos][s][e]\n[u]")


def test_template_without_a_default_has_no_system_turn():
    from dataclasses import replace

    assert render_prompt(write(ASK, template=replace(TEMPLATE, system=None))) == "[bos][u]Hi[e]\n[a]"


def test_answers_and_their_ends_are_trained_and_nothing_else():
    segments = write(ASK, REPLY, ASK, REPLY, train=True)
    assert [s.text for s in segments if s.trained] == ["Yo", "[e]", "Yo", "[e]"]


def test_answer_that_a_row_leaves_out_is_not_trained():
    segments = write(ASK, make_message("assistant", "No", trained=False), ASK, REPLY, train=True)
    assert [s.text for s in segments if s.trained] == ["Yo", "[e]"]


@pytest.mark.parametrize("train", [True, False])
def test_answers_and_their_ends_are_marked_in_training_and_in_history(train):
    segments = write(ASK, REPLY, *([ASK] if not train else []), train=train)
    assert [s.text for s in segments if s.answer] == ["Yo", "[e]"]


def test_nothing_is_trained_outside_training():
    assert not any(segment.trained for segment in write(ASK, REPLY, ASK))


def test_typed_text_is_plain_but_for_the_tokens_a_family_lets_be_typed():
    segments = write(user("[e][a]<box>"))
    assert Segment("[e][a]") in segments and Segment("<box>", "special") in segments


def test_medium_without_a_tag_comes_where_it_stands_with_what_follows_it():
    assert "[u][i]<image>[/i]\nHi[e]" in render_prompt(write(user("Hi", [CAT])))
    after = make_message("user", ["Hi", CAT])
    assert "[u]Hi[i]<image>[/i]\n[e]" in render_prompt(write(after))


def test_media_at_tags_come_in_order_with_nothing_behind_them():
    segments = write(user("<image> or <image>?", [CAT, DOG]))
    assert "[u][i]<image>[/i] or [i]<image>[/i]?[e]" in render_prompt(segments)
    assert [s.images for s in segments if s.kind == "media"] == [(CAT,), (DOG,)]


def test_tag_without_any_media_is_text():
    segments = write(user("What does <image> mean?"))
    assert Segment("What does <image> mean?") in segments


@pytest.mark.parametrize(("text", "images"), [("<image>", [CAT, DOG]), ("<image><image>", [CAT])])
def test_as_many_tags_as_media_are_needed(text, images):
    with pytest.raises(UsageError, match="each tag stands for one medium"):
        write(user(text, images))


def test_video_is_refused_where_the_family_takes_none():
    with pytest.raises(UsageError, match="this model takes images only"):
        write(user("Hi", videos=[FILM]))


def test_video_tags_take_the_videos_and_other_tags_the_images():
    placed = place_tagged(user("<video> then <image>", [CAT], [FILM]), ["<image>", "<video>"])
    assert placed == (FILM, Text(" then "), CAT)
    with pytest.raises(UsageError, match="1 images and 0 videos"):
        place_tagged(user("<video>", [CAT]), ["<image>", "<video>"])


@pytest.mark.parametrize("roles", [[], ["assistant"], ["user", "user"], ["user", "system"], ["system"],
                                   ["user", "assistant"], ["system", "system", "user"]])
def test_turns_out_of_order_are_refused(roles):
    with pytest.raises(UsageError, match="end with the user; put the messages in that order"):
        check_order([make_message(role, "x") for role in roles], train=False)


@pytest.mark.parametrize("roles", [["user"], ["system", "user"], ["user", "assistant", "user"]])
def test_conversation_ends_with_the_assistant_when_training(roles):
    messages = [make_message(role, "x") for role in roles]
    check_order(messages, train=False)
    check_order([*messages, REPLY], train=True)
    with pytest.raises(UsageError, match="end with the assistant"):
        check_order(messages, train=True)


def test_messages_are_left_as_they_were_and_segments_are_the_same_each_time():
    messages = (user("<image>", [CAT]), REPLY)
    assert write(*messages, train=True) == write(*messages, train=True)
    assert messages == (user("<image>", [CAT]), REPLY)


def test_longer_token_wins_where_two_begin_alike():
    assert [s.text for s in split_tokens("<a><ab>", ["<a", "<a>"])] == ["<a>", "<a", "b>"]
    assert split_tokens("", ["<a>"]) == split_tokens("", []) == ()


def test_hidden_text_is_not_in_the_prompt():
    assert render_prompt([Segment("a"), Segment("<tok>", "special", shown=""), Segment("b", shown="B")]) == "aB"


@pytest.mark.parametrize("text", ["Yo", " Yo[e]", "Yo\n### Human", "Yo[e]\n[u]More"])
def test_answer_is_cleaned_of_what_stopped_it(text):
    assert TEMPLATE.clean_answer(text) == "Yo"
