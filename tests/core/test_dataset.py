"""Data files become rows: forms, places of media, sampling, splitting; faults by file, line and field."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlcore.config import DataConfig
from vlcore.dataset import (
    ReadOptions,
    Row,
    Rows,
    describe_placement,
    find_faults,
    make_read_options,
    open_rows,
    read_datasets,
    read_rows,
    split_rows,
    write_row,
)
from vlcore.errors import DataError, UsageError
from vlcore.family import ModelFamily, Parts
from vlcore.messages import Image, Text, Video, make_message
from vlcore.template import ChatTemplate, EncodeOptions, render_prompt

LOOSE = ReadOptions(check_media=False)
TURNS = replace(LOOSE, place="turns", tags=("<image>", "<image_placeholder>"))
ANSWER = {"role": "assistant", "content": "A."}
Read = Callable[..., list[Row]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(*rows: Any, name: str = "rows.jsonl") -> str:
    Path(name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return name


def read_one(row: dict[str, Any], options: ReadOptions = LOOSE) -> Row:
    (found,) = read_rows(write_rows(row), options)
    return found


def fault_of(row: Any, options: ReadOptions = LOOSE) -> DataError:
    with pytest.raises(DataError) as caught:
        read_rows(write_rows(row), options)
    return caught.value


def image(name: str) -> Image:
    return Image(Path.cwd() / name)


def contents(row: Row) -> list[tuple[Any, ...]]:
    """The turns' parts, texts as plain strings and local media by their file's name."""

    def show(part: Any) -> str:
        return part.text if isinstance(part, Text) else f"[{Path(part.source).name}]"

    return [tuple(show(part) for part in message.content) for message in row.messages]


# Form 1: query and response.


def test_query_and_response_become_a_user_and_an_assistant_turn() -> None:
    row = read_one({"query": "Hello", "response": "Hi"})
    assert row.messages == (make_message("user", "Hello"), make_message("assistant", "Hi"))
    assert (str(row), row.placed) == ("rows.jsonl:1", None)


def test_history_and_system_come_before_the_query() -> None:
    row = read_one({"query": "c", "response": "d", "history": [["a", "b"]], "system": "S"})
    assert [(m.role, m.text) for m in row.messages] == [
        ("system", "S"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


def test_null_fields_count_as_absent() -> None:
    row = read_one({"query": "a", "response": "b", "history": None, "images": None, "messages": None})
    assert contents(row) == [("a",), ("b",)]


def test_the_systems_default_is_for_rows_without_one() -> None:
    options = replace(LOOSE, system="Be brief.")
    assert read_one({"query": "a", "response": "b"}, options).messages[0].text == "Be brief."
    assert read_one({"query": "a", "response": "b", "system": "S"}, options).messages[0].text == "S"
    own = {"messages": [{"role": "system", "content": "T"}, {"role": "user", "content": "a"}, ANSWER]}
    assert [m.role for m in read_one(own, options).messages] == ["system", "user", "assistant"]


def test_a_query_without_response_is_a_row_only_for_validation() -> None:
    assert contents(read_one({"query": "a"}, replace(LOOSE, train=False))) == [("a",)]
    assert fault_of({"query": "a"}).given == "rows.jsonl:1: response"


# Media places.


def test_untagged_media_go_to_the_start_of_the_last_query() -> None:
    row = read_one({"query": "c", "response": "d", "history": [["a", "b"]], "images": ["1.png", "2.png"]})
    assert contents(row) == [("a",), ("b",), ("[1.png]", "[2.png]", "c"), ("d",)]
    assert row.placed == "last"


def test_untagged_media_go_to_the_first_query_where_the_family_says_so() -> None:
    row = {"query": "c", "response": "d", "history": [["a", "b"]], "images": ["1.png", None]}
    assert contents(read_one(row, replace(LOOSE, place="first")))[0] == ("[1.png]", "a")


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["1.png", "2.png"], [("[1.png]", "a"), ("b",), ("[2.png]", "c"), ("d",)]),
        (["1.png"], [("[1.png]", "a"), ("b",), ("c",), ("d",)]),
        ([None, "2.png"], [("a",), ("b",), ("[2.png]", "c"), ("d",)]),
    ],
)
def test_untagged_media_go_one_to_a_turn_where_the_family_says_so(images: Any, expected: Any) -> None:
    row = {"query": "c", "response": "d", "history": [["a", "b"]], "images": images}
    assert contents(read_one(row, TURNS)) == expected


def test_more_media_than_turns_are_refused_where_each_turn_takes_one() -> None:
    fault = fault_of({"query": "a", "response": "b", "images": ["1.png", "2.png"]}, TURNS)
    assert (fault.given, fault.why) == ("rows.jsonl:1: images", "2 media for 1 turns")


def hold(*turns: Any) -> dict[str, Any]:
    said = [{"role": ["user", "assistant"][i % 2], "content": turn} for i, turn in enumerate(turns)]
    media = "".join(map(str, turns)).count("<image>")
    return {"messages": said, "images": ["a.png"] * media} if media else {"messages": said}


def test_a_model_that_asks_each_turn_takes_one_medium_a_turn() -> None:
    options = replace(LOOSE, ask="turn")
    assert read_one(hold("<image>a", "b", "<image>c", "d"), options).messages[2].media
    fault = fault_of(hold("a", "b", "<image><image>c", "d"), options)
    assert (fault.given, fault.why) == (
        "rows.jsonl:1: messages[2].content", "it has 2 media, and this model takes one a turn"
    )


def test_a_model_that_asks_once_a_conversation_takes_media_in_one_turn() -> None:
    options = replace(LOOSE, ask="conversation")
    assert len(read_one(hold("a", "b", "<image><image>c", "d"), options).messages[2].media) == 2
    parts = [{"type": "image", "image": "a.png"}, {"type": "video", "video": "b.mp4"}]
    assert len(read_one(hold(parts, "b", "c", "d"), options).messages[0].media) == 2
    fault = fault_of(hold("<image>a", "b", "<image>c", "d"), options)
    assert fault.given == "rows.jsonl:1: messages[2].content" and "takes media in one turn" in fault.why


def test_placeholders_are_tags_for_every_family() -> None:
    row = {"conversations": [{"from": "human", "value": "<image_placeholder>\nWhat?"}, {"from": "gpt", "value": "A."}]}
    assert contents(read_one({**row, "image": "1.png"})) == [("[1.png]", "<image>\nWhat?"), ("A.",)]
    assert contents(read_one({**row, "image": "1.png"}, TURNS))[0] == ("[1.png]", "<image_placeholder>\nWhat?")
    assert fault_of(row).given == "rows.jsonl:1: conversations[0].value"
    told = {"messages": [{"role": "user", "content": [{"type": "text", "text": "<image_placeholder>?"}]}, ANSWER]}
    assert contents(read_one(told))[0] == ("<image_placeholder>?",)


def test_tagged_media_stand_before_the_text_which_keeps_its_tags() -> None:
    row = read_one(
        {
            "query": "One <image>\nTwo <image>\nDiffer?",
            "response": "x",
            "history": [["<image>This?", "y"]],
            "images": ["1.png", "2.png", "3.png"],
        }
    )
    assert contents(row) == [
        ("[1.png]", "<image>This?"),
        ("y",),
        ("[2.png]", "[3.png]", "One <image>\nTwo <image>\nDiffer?"),
        ("x",),
    ]
    assert row.placed is None


def test_images_and_videos_are_taken_in_the_order_of_their_tags() -> None:
    row = read_one({"query": "<video><image>?", "response": "x", "images": ["1.png"], "videos": "2.mp4"})
    assert contents(row)[0] == ("[2.mp4]", "[1.png]", "<video><image>?")
    assert isinstance(row.messages[0].content[0], Video)


def test_a_text_with_commas_is_a_list_and_a_data_url_is_one_image() -> None:
    row = read_one({"query": "a", "response": "b", "images": "1.png, 2.png"})
    assert contents(row)[0] == ("[1.png]", "[2.png]", "a")
    row = read_one({"query": "a", "response": "b", "image": "data:image/png;base64,AAAA"})
    assert row.messages[0].media == (Image("data:image/png;base64,AAAA"),)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"query": "<image><image>", "response": "x", "images": ["1.png"]}, "query"),
        ({"query": "a", "response": "x", "history": [["<image>", "y"]]}, "history[0][0]"),
        ({"query": "<image>", "response": "x", "images": ["1.png", "2.png"]}, "images"),
        ({"query": "<image>", "response": "x", "images": ["1.png"], "videos": ["2.mp4"]}, "videos"),
        ({"query": "<video>", "response": "x", "images": ["1.png"]}, "query"),
    ],
)
def test_tags_and_media_that_differ_in_number_name_the_field(row: dict[str, Any], field: str) -> None:
    assert fault_of(row).given == f"rows.jsonl:1: {field}"


def test_tags_in_answers_are_plain_text() -> None:
    assert contents(read_one({"query": "a", "response": "Write <image>."}))[1] == ("Write <image>.",)


def test_a_prompt_has_the_inline_picture_exactly_where_it_was_written() -> None:
    row = read_one({"query": "Picture 1:<img>a.png</img>\nWhat?", "response": "x"})
    assert row.messages[0].content == (image("a.png"), Text("Picture 1:<image>\nWhat?"))
    template = ChatTemplate(
        roles={"user": "", "assistant": "|"}, ends={"user": "", "assistant": ""}, image="{<image>}"
    )
    segments = template.write_segments(row.messages, EncodeOptions(train=True))
    assert render_prompt(segments) == "Picture 1:{<image>}\nWhat?|x"
    assert [s.images for s in segments if s.kind == "media"] == [(image("a.png"),)]


def test_inline_pictures_take_the_familys_own_tag() -> None:
    options = replace(LOOSE, tags=("<image_placeholder>", "<image>"))
    row = read_one({"query": "<img>http://x/a.png</img><img>b.png</img>?", "response": "x"}, options)
    assert row.messages[0].media == (Image("http://x/a.png"), image("b.png"))
    assert row.messages[0].text == "<image_placeholder><image_placeholder>?"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"query": "<img>a.png</img> <image>", "response": "x"}, "query"),
        ({"query": "<img>a.png</img>", "response": "x", "history": [["<image>", "y"]]}, "history[0][0]"),
        ({"query": "<img>a.png</img>", "response": "x", "images": ["b.png"]}, "images"),
        ({"query": "<img>a.png", "response": "x"}, "query"),
        ({"query": "<img></img>", "response": "x"}, "query: <img>"),
    ],
)
def test_inline_pictures_mixed_with_other_ways_or_broken_are_refused(row: dict[str, Any], field: str) -> None:
    assert fault_of(row).given == f"rows.jsonl:1: {field}"


# Form 4: conversations.


def test_conversations_take_both_names_of_each_role() -> None:
    turns = [("system", "S"), ("human", "a"), ("gpt", "b"), ("user", "c"), ("assistant", "d")]
    row = read_one({"conversations": [{"from": role, "value": text} for role, text in turns]})
    assert [m.role for m in row.messages] == ["system", "user", "assistant", "user", "assistant"]


def test_conversations_with_an_image_beside_use_the_familys_tags() -> None:
    row = read_one(
        {
            "image": "images/cat.jpg",
            "conversations": [
                {"from": "human", "value": "<image_placeholder>\nDescribe the cat."},
                {"from": "assistant", "value": "Grey."},
            ],
        },
        replace(TURNS, image_folder="pictures"),
    )
    assert row.messages[0].content == (
        image("pictures/images/cat.jpg"),
        Text("<image_placeholder>\nDescribe the cat."),
    )


def test_conversations_keep_the_text_around_inline_pictures() -> None:
    text = "Picture 1:<img>a.png</img>\nPicture 2:<img>b.png</img>\nWhich?"
    row = read_one({"conversations": [{"from": "user", "value": text}, {"from": "assistant", "value": "b"}]})
    assert contents(row)[0] == ("[a.png]", "[b.png]", "Picture 1:<image>\nPicture 2:<image>\nWhich?")


# Form 5: messages.


def test_openai_parts_keep_their_order() -> None:
    row = read_one(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "This "},
                        {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "low"}},
                        {"type": "image_url", "image_url": "data:image/png;base64,AAAA"},
                        {"type": "text", "text": "?"},
                    ],
                },
                ANSWER,
            ]
        }
    )
    assert row.messages[0].content == (
        Text("This "),
        Image("https://x/a.png"),
        Image("data:image/png;base64,AAAA"),
        Text("?"),
    )


def test_parts_of_the_own_form_hold_images_videos_and_frames() -> None:
    row = read_one(
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": "a.png"},
                        {"type": "video", "video": "b.mp4"},
                        {"type": "video", "frames": ["1.png", "2.png"], "video": None},
                    ],
                },
                ANSWER,
            ]
        }
    )
    assert row.messages[0].content == (
        image("a.png"),
        Video(Path.cwd() / "b.mp4"),
        Video(frames=(image("1.png"), image("2.png"))),
    )


def test_messages_take_the_images_beside_them_at_tags_and_empty_parts() -> None:
    tagged = {"messages": [{"role": "user", "content": "<image>a"}, ANSWER], "images": ["1.png"]}
    assert contents(read_one(tagged))[0] == ("[1.png]", "<image>a")
    parts = [{"type": "text", "text": "a "}, {"type": "image"}]
    slots = {"messages": [{"role": "user", "content": parts}, ANSWER], "images": ["1.png"]}
    assert contents(read_one(slots))[0] == ("a ", "[1.png]")


def test_an_answer_may_be_left_out_of_the_loss() -> None:
    row = read_one(
        {
            "messages": [
                {"role": "user", "content": "a"},
                {**ANSWER, "loss": False},
                {"role": "user", "content": "b"},
                {**ANSWER, "loss": None},
            ]
        }
    )
    assert [m.trained for m in row.messages] == [True, False, True, True]


def test_a_text_part_in_a_row_without_media_may_talk_about_tags() -> None:
    text = "What are <video>, <image> and <img>?"
    row = read_one({"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}, ANSWER]})
    assert contents(row)[0] == (text,)


@pytest.mark.parametrize(
    ("messages", "beside", "field"),
    [
        ([{"role": "tool", "content": "a"}], {}, "messages[0].role"),
        ([{"role": "user"}], {}, "messages[0].content"),
        ([{"role": "user", "content": 3}], {}, "messages[0].content"),
        (["Hello"], {}, "messages[0]"),
        ([{"role": "user", "content": [{"type": "video", "frames": []}]}], {}, "messages[0].content[0].frames"),
        ("Hello", {}, "messages"),
        ([{"role": "user", "content": "a", "loss": "no"}], {}, "messages[0].loss"),
        ([{"role": "user", "content": [{"type": "audio"}]}], {}, "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], {}, "messages[0].content[0].text"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            {},
            "messages[0].content[0].image_url",
        ),
        ([{"role": "user", "content": [{"type": "image"}]}, ANSWER], {}, "messages[0].content"),
        ([{"role": "user", "content": "a"}], {}, "messages"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}, ANSWER], {}, "messages"),
        ([], {}, "messages"),
        (
            [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": [{"type": "image", "image": "a"}]},
            ],
            {},
            "messages[1].content",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "image": "a"}]}, ANSWER],
            {"images": ["b"]},
            "images",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": "a"}, {"type": "text", "text": "<image><image>"}],
                },
                ANSWER,
            ],
            {},
            "messages[0].content",
        ),
        (
            [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, ANSWER],
            {"system": "T"},
            "system",
        ),
    ],
)
def test_faults_in_messages_name_the_field(messages: Any, beside: dict[str, Any], field: str) -> None:
    assert fault_of({"messages": messages, **beside}).given == f"rows.jsonl:1: {field}"


# Keys and rows.


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"query": 3, "response": "x"}, "query"),
        ({"query": "a", "response": ["x"]}, "response"),
        ({"response": "x"}, "query"),
        ({"query": "a", "response": "x", "history": [["only"]]}, "history[0]"),
        ({"query": "a", "response": "x", "history": "b"}, "history"),
        ({"query": "a", "response": "x", "images": [3]}, "images[0]"),
        ({"query": "a", "response": "x", "images": {"path": "a"}}, "images"),
        ({"query": "a", "response": "x", "image": "a", "images": ["a"]}, "images and image"),
        ({"query": "a", "response": "x", "system": 1}, "system"),
        ({"query": "a", "messages": []}, "query and messages"),
        ({"query": "Find <bbox>", "response": "x", "objects": []}, "query"),
        ("Hello", "row"),
    ],
)
def test_faults_name_file_line_and_field(row: Any, field: str) -> None:
    fault = fault_of(row)
    assert fault.given == f"rows.jsonl:1: {field}"
    assert fault.why and fault.do


@pytest.mark.parametrize(
    "row",
    [
        {"k" * 3000: 1}, {str(number): 1 for number in range(3000)}, {"a\nb\u202e": 1},
        {"messages": [{"role": ["x"] * 3000, "content": "a"}]}, {"messages": [{"role": "a\n" * 900, "content": "a"}]},
        {"query": "a", "response": "b", "images": ["a\n" * 900]},
    ],
)  # fmt: skip
def test_faults_fit_in_one_line_whatever_the_row_holds(row: dict[str, Any]) -> None:
    said = str(fault_of(row, ReadOptions()))
    assert len(said) < 800 and said.isprintable()


def test_mistyped_keys_are_answered_with_near_names() -> None:
    assert fault_of({"query": "a", "reponse": "b"}).why == "it is missing (is reponse meant for it?)"
    assert "qeury (did you mean query?), id" in fault_of({"qeury": "a", "id": 1}).why


def test_keys_that_nothing_reads_are_reported_once_a_source(caplog: pytest.LogCaptureFixture) -> None:
    row = {"query": "a", "response": "b", "id": 1, "hystory": []}
    parts = [{"type": "text", "text": "a", "min_pixels": 4}]
    messages = {"messages": [{"role": "user", "content": parts, "name": "Jo"}, ANSWER], "response": "x"}
    with caplog.at_level(logging.WARNING, "vlcore"):
        read_rows(write_rows(row, row, messages), LOOSE)
    (record,) = caplog.records
    assert record.getMessage() == (
        "rows.jsonl, 3 rows: keys that are not read: hystory (did you mean history?) in 2, id in 2, "
        "messages[].content[].min_pixels in 1, messages[].name in 1, response in 1"
    )


def test_a_missing_file_is_named_with_line_and_field(folder: Path) -> None:
    (folder / "a.png").touch()
    source = write_rows(
        {"query": "a", "response": "b"},
        {"query": "a", "response": "b", "images": ["a.png", "https://x/c.png", "b.png"]},
    )
    with pytest.raises(DataError) as caught:
        read_rows(source)
    assert caught.value.given == "rows.jsonl:2: images[2]"
    assert str(folder / "b.png") in caught.value.why


def test_relative_paths_start_at_the_data_file_or_at_the_image_folder(folder: Path) -> None:
    (folder / "data").mkdir()
    source = write_rows({"query": "<img>a.png</img>", "response": "b"}, name="data/rows.jsonl")
    assert read_rows(source, LOOSE)[0].messages[0].media == (image("data/a.png"),)
    assert read_rows(source, replace(LOOSE, image_folder="media"))[0].messages[0].media == (
        image("media/a.png"),
    )


def test_bare_base64_is_reported_as_a_missing_file_in_short() -> None:
    fault = fault_of({"query": "a", "response": "b", "images": ["A" * 9000]}, ReadOptions())
    assert fault.given == "rows.jsonl:1: images[0]" and len(fault.why) < 200


# Files.


def test_forms_may_be_mixed_in_one_file_with_blank_lines(folder: Path) -> None:
    lines = [
        '{"query": "a", "response": "b"}',
        "",
        '{"messages": [{"role": "user", "content": "\u2028c"}, {"role": "assistant", "content": "d"}]}',
        " ",
    ]
    Path("mixed.jsonl").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    rows = read_rows("mixed.jsonl")
    assert [(row.line, row.messages[0].text) for row in rows] == [(1, "a"), (3, "\u2028c")]


def test_rows_of_a_json_list_know_their_line() -> None:
    text = '[ {"query": "a",\n "response": "b"}\n\n, {"query": "c", "response": "d"},{"query":\n"e"}\n]\n'
    Path("rows.json").write_text(text)
    assert [row.line for row in read_rows("rows.json", replace(LOOSE, train=False))] == [1, 4, 4]


@pytest.mark.parametrize(
    ("name", "text", "given", "why"),
    [
        ("a.jsonl", '\n{"query": "a", }', "a.jsonl:2", "a comma before a closing bracket"),
        ("a.jsonl", "\n nonsense", "a.jsonl:2", "not JSON"),
        ("a.json", '[{"query": "a"},\n {"query": "b"},\n]', "a.json:3", "a comma before a closing bracket"),
        ("a.json", '[{"a": 1}\n{"b": 2}]', "a.json:2", "',' delimiter"),
        ("a.json", '[{"a": 1}', "a.json:1", "',' delimiter"),
        ("a.json", '[{"a": 1}]\n[]', "a.json:2", "Extra data"),
        ("a.json", '{"query": "a"}', "a.json", "not a list"),
        ("a.json", "[3]", "a.json:1: row", "a number, not an object"),
        ("a.json", "[]", "a.json", "no rows"),
        ("a.jsonl", "\n", "a.jsonl", "no rows"),
    ],
)
def test_damaged_files_are_refused_by_line(name: str, text: str, given: str, why: str) -> None:
    Path(name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_rows(name, LOOSE)
    assert caught.value.given == given and why in caught.value.why


def test_a_file_that_is_not_utf8_is_refused() -> None:
    Path("a.jsonl").write_bytes(b'{"query": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read_rows("a.jsonl")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("no.jsonl", "no such file"),
        ("coco-xyz", "neither"),
        ("rows.jsonl#0", "no row"),
        ("rows.jsonl#4", "3 rows"),
    ],
)
def test_sources_that_cannot_be_used_are_usage_errors(source: str, why: str) -> None:
    write_rows(*[{"query": "a", "response": "b"}] * 3)
    with pytest.raises(UsageError) as caught:
        read_rows(source)
    assert why in caught.value.why


def test_a_mistyped_file_is_answered_with_a_near_one() -> None:
    write_rows({"query": "a", "response": "b"})
    with pytest.raises(UsageError, match=r"did you mean rows\.jsonl"):
        read_rows("row.jsonl")


def test_sampling_keeps_the_order_and_depends_on_the_seed_alone() -> None:
    source = write_rows(*({"query": str(i), "response": "x"} for i in range(50)))
    lines = [row.line for row in read_rows(f"{source}#20")]
    assert lines == sorted(set(lines)) and len(lines) == 20
    assert lines == [row.line for row in read_rows(f"{source}#20")]
    assert lines != [row.line for row in read_rows(f"{source}#20", ReadOptions(seed=1))]


def test_a_file_whose_name_ends_in_a_number_sign_and_digits_is_a_file() -> None:
    write_rows({"query": "a", "response": "b"}, name="rows.jsonl")
    Path("rows.jsonl").rename("part#1.jsonl")
    assert len(read_rows("part#1.jsonl")) == len(read_rows("part#1.jsonl#1")) == 1


def test_all_faults_of_a_source_can_be_listed() -> None:
    source = write_rows(
        {"query": "a"}, {"query": "a", "response": "b"}, {"query": "<image>", "response": "b"}
    )
    assert [fault.given for fault in find_faults(source)] == ["rows.jsonl:1: response", "rows.jsonl:3: query"]


# Training and validation.

FAMILY = ModelFamily(
    name="toy",
    recognise=lambda config, folder: False,
    place="turns",
    tags=("<image>", "<pic>"),
    parts=Parts(language=("lm",), vision=("v",), projector=("p",)),
)


def make_rows(count: int) -> Rows:
    return open_rows([write_rows(*({"query": str(i), "response": "x"} for i in range(count)))])


@pytest.mark.parametrize(
    ("count", "ratio", "aside"),
    [
        (200, 0.01, 2),
        (50, 0.01, 1),
        (2, 0.01, 1),
        (1, 0.5, 0),
        (4, 1.0, 3),
        (10, 0.0, 0),
    ],
)
def test_splitting_sets_aside_at_least_one_row_and_never_all(count: int, ratio: float, aside: int) -> None:
    rows = make_rows(count)
    train, validation = split_rows(rows, ratio)
    assert (len(train), len(validation)) == (count - aside, aside)
    assert sorted([*train, *validation], key=lambda row: row.line) == list(rows)
    assert [list(part) for part in split_rows(rows, ratio)] == [list(train), list(validation)]


def test_a_ratio_above_one_is_refused() -> None:
    with pytest.raises(UsageError, match="dataset_test_ratio"):
        split_rows(make_rows(2), 1.5)


def test_datasets_are_joined_and_a_part_is_set_aside() -> None:
    source = write_rows(*({"query": "<pic>", "response": "x", "images": "a.png"} for _ in range(30)))
    Path("a.png").touch()
    config = DataConfig(dataset=(source, f"{source}#10"), dataset_test_ratio=0.1, system="S")
    train, validation = read_datasets(config, FAMILY)
    assert (len(train), len(validation)) == (36, 4)
    assert train[0].messages[0].text == "S"


def test_validation_files_may_lack_answers_and_nothing_is_set_aside() -> None:
    config = DataConfig(
        dataset=(write_rows(*[{"query": "a", "response": "b"}] * 5),),
        val_dataset=(write_rows({"query": "a"}, name="val.jsonl"),),
    )
    train, validation = read_datasets(config, FAMILY)
    assert (len(train), len(validation)) == (5, 1)


def test_the_family_and_the_configuration_say_how_rows_are_read() -> None:
    options = make_read_options(DataConfig(image_folder="pictures", data_seed=7), FAMILY, train=False)
    assert options == ReadOptions(
        place="turns", tags=("<image>", "<pic>"), image_folder="pictures", seed=7, train=False
    )


def test_the_rule_used_for_untagged_media_can_be_described() -> None:
    rows = read_rows(
        write_rows({"query": "a", "response": "b", "images": ["a.png"]}, {"query": "a", "response": "b"}),
        TURNS,
    )
    assert (
        describe_placement(rows) == "media without tags, 1 of 2 rows: one at the start of each turn, in order"
    )
    assert describe_placement(rows[1:]) == "tags or parts place all media"


@pytest.mark.parametrize(
    "row",
    [
        {"query": "c", "response": "d", "history": [["a", "b"]], "images": ["1.png", "2.png"], "system": "S"},
        {"query": "<image> <video>", "response": "<image>", "images": "1.png", "videos": ["2.mp4"]},
        {"query": "Picture 1:<img>a.png</img>\n", "response": ""},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "<image>"}]},
                {**ANSWER, "loss": False},
            ]
        },
        {"messages": [{"role": "user", "content": [{"type": "video", "frames": ["1.png"]}]}, ANSWER]},
        {"query": "a", "response": "b", "images": ["data:image/png;base64,AAAA"]},
    ],
)
def test_a_written_row_reads_back_as_the_same_messages(row: dict[str, Any], folder: Path) -> None:
    first = read_one(row)
    (folder / "elsewhere").mkdir()
    (second,) = read_rows(write_rows(write_row(first), name="elsewhere/again.jsonl"), LOOSE)
    assert second.messages == first.messages


def test_later_stages_can_name_file_line_and_field_of_a_row() -> None:
    fault = read_one({"query": "a", "response": "b"}).fault("images[0]", "it is too large", "make it smaller")
    assert str(fault) == "rows.jsonl:1: images[0]: it is too large; make it smaller"


def test_the_package_is_light() -> None:
    code = "import sys, vlcore.dataset; print({'torch', 'PIL', 'numpy', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
