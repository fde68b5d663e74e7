"""Rows as a model sees them, and their boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlcore.batch import IGNORED
from vlcore.dataset import Row
from vlcore.doctor.draw import check_name, draw_row, find_boxes, save_pictures
from vlcore.doctor.settings import LookConfig, open_sources
from vlcore.doctor.show import View, find_rows, join_ids, view_row
from vlcore.errors import DataError, UsageError
from vlcore.model import Frontend

GOOD = {"query": "<image>What is it?", "response": "A cat.", "images": ["cat.png"]}
BOXED = {"query": "<image><image>Find it.", "response": "<ref-object><bbox>", "images": ["cat.png", "dog.png"],
         "objects": [{"caption": "dog", "bbox": [10, 5, 30, 15], "image": 1}]}
MODELS = ["internvl2-2b", "qwen-vl-chat", "yi-vl-6b-chat", "deepseek-vl-7b-chat"]


@pytest.fixture
def frontend(open_frontend: Callable[[str], Frontend]) -> Frontend:
    return open_frontend("internvl2-2b")


@pytest.fixture
def view(tmp_path: Path) -> Callable[..., View]:
    Image.new("RGB", (60, 40)).save(tmp_path / "cat.png")
    Image.new("RGB", (40, 20)).save(tmp_path / "dog.png")

    def run(frontend: Frontend, row: dict[str, Any], **settings: Any) -> View:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row), "utf8")
        config = LookConfig(dataset=(str(path),), **settings)
        return view_row(frontend, open_sources(config, frontend, train=False)[0], config)

    return run


@pytest.mark.parametrize("model", MODELS)
def test_the_pieces_are_those_that_are_trained_on(model, open_frontend, view) -> None:
    frontend = open_frontend(model)
    shown = view(frontend, {**GOOD, "query": "What is it?"})
    config = LookConfig(dataset=(shown.head[0].split(":")[0],))
    layout = frontend.plan(open_sources(config, frontend)[0].messages, train=True)
    trained = "".join(piece.text for piece in shown.prompt if piece.trained)
    assert "A cat." in trained and "What is it?" not in trained
    assert f"{len(layout):,} tokens" in shown.head[0]
    ids = [id for piece in shown.ids for id in read_ids(piece.text)]
    assert ids == list(layout.ids)
    labelled = [id for piece in shown.ids if piece.trained for id in read_ids(piece.text)]
    assert labelled == [label for label in layout.labels if label != IGNORED]


def read_ids(text: str) -> list[int]:
    token, _, times = text.partition("×")
    return [int(token)] * int(times or 1)


def test_media_are_shown_with_size_tiles_tokens_and_name(frontend, view, tmp_path) -> None:
    (medium,) = [piece for piece in view(frontend, GOOD).prompt if piece.kind == "media"]
    tokens = frontend.plan(open_sources(LookConfig(dataset=(str(tmp_path / "rows.jsonl"),)), frontend)[0].messages,
                           train=True).plans[0]
    assert medium.text == (f"<image 60x40, {sum(tokens.tiles)} tiles, {tokens.tokens} tokens: {tmp_path}/cat.png>")


def test_frames_of_a_video_stand_at_their_places_and_its_name_in_the_head(frontend, view, tmp_path) -> None:
    (tmp_path / "film").mkdir()
    for number in range(3):
        Image.new("RGB", (30, 20)).save(tmp_path / "film" / f"{number}.png")
    shown = view(frontend, {"query": "<video>What?", "response": "A film.", "videos": ["film"]})
    assert f"video {tmp_path}/film" in shown.head and "1 video" in shown.head[0]
    assert all(piece.text.startswith("<frame 30x20, 1 tile") for piece in shown.prompt if piece.kind == "media")


def test_a_row_without_an_answer_is_shown_as_it_would_be_asked(frontend, view) -> None:
    shown = view(frontend, {"query": "What?"})
    assert "without an answer" in shown.head[0] and not any(piece.trained for piece in shown.prompt)


def test_control_characters_of_a_row_do_not_reach_the_terminal(frontend, view) -> None:
    shown = view(frontend, {"query": "\x1b[31mred\x9b\tand\n", "response": "\x07"})
    text = "".join(piece.text for piece in shown.prompt)
    assert "\\x1b[31mred\\x9b\tand\n" in text and "\\x07" in text and "\x1b" not in text


@pytest.mark.parametrize(("rule", "said"), [("error", "stops a training here"), ("drop", "leaves it out")])
def test_a_long_row_that_is_not_used_is_shown_whole(rule, said, frontend, view) -> None:
    shown = view(frontend, GOOD, max_length=10, on_overflow=rule)
    assert said in shown.head[-1] and any("A cat." in piece.text for piece in shown.prompt)


def test_a_long_row_is_shown_as_it_is_left(frontend, view) -> None:
    row = {"query": "Last?", "response": "Yes.", "history": [["First? " * 30, "No."]]}
    shown = view(frontend, row, max_length=90, on_overflow="truncate")
    assert "2 messages left out" in shown.head[-1] and "First?" not in "".join(piece.text for piece in shown.prompt)
    hopeless = view(frontend, row, max_length=5, on_overflow="truncate")
    assert "cannot help" in hopeless.head[-1] and "First?" in "".join(piece.text for piece in hopeless.prompt)


def test_a_shrunk_row_names_the_option_that_shrinks_it(frontend, view) -> None:
    whole = sum(len(read_ids(piece.text)) for piece in view(frontend, GOOD).ids)
    shown = view(frontend, GOOD, max_length=whole - 1, on_overflow="shrink")
    assert "max_num=" in shown.head[-1]


def test_damaged_media_name_file_and_line(frontend, view, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: image .*text\.png: it is no image"):
        view(frontend, {**GOOD, "images": ["text.png"]})


def test_spaces_between_ids_in_the_loss_are_in_the_loss(frontend, view) -> None:
    joined = join_ids(view(frontend, GOOD).ids)
    spaces = [piece.trained for piece in joined if piece.text == " "]
    assert True in spaces and False in spaces


def test_a_row_is_found_by_the_line_that_errors_name(tmp_path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([GOOD, GOOD, GOOD], indent=1))
    rows = open_sources(LookConfig(dataset=(str(tmp_path / "rows.json"),)), None)
    line = rows.locate(1).line
    assert find_rows(rows, line, 1) == [1] and find_rows(rows, line, 9) == [1, 2] and find_rows(rows, 0, 1) == [0]
    with pytest.raises(UsageError, match=f"near are {rows.locate(0).line} and {line}"):
        find_rows(rows, line - 1, 1)


def read_row(path: Path, frontend: Frontend) -> Row:
    return open_sources(LookConfig(dataset=(str(path),)), frontend)[0]


def test_boxes_are_drawn_on_the_last_picture_before_them(frontend, view, tmp_path) -> None:
    view(frontend, BOXED)
    row, family = read_row(tmp_path / "rows.jsonl", frontend), frontend.checkpoint.family
    assert family.grounding is not None
    plain, boxed = find_boxes(row, family.grounding)
    assert not plain[1] and boxed[1][0].label == "dog" and boxed[1][0].points == ((0.25, 0.25), (0.75, 0.75))
    pictures = draw_row(row, family)
    assert [picture.size for picture in pictures] == [(60, 40), (40, 20)]
    assert pictures[0].getcolors() == [(2400, (0, 0, 0))] and len(pictures[1].getcolors() or ()) > 1


def test_a_row_without_boxes_has_nothing_to_draw(frontend, view, tmp_path) -> None:
    view(frontend, GOOD)
    assert draw_row(read_row(tmp_path / "rows.jsonl", frontend), frontend.checkpoint.family) == []


def test_families_without_boxes_are_refused(open_frontend, view, tmp_path) -> None:
    frontend = open_frontend("yi-vl-6b-chat")
    view(frontend, {**GOOD, "query": "What is it?"})
    with pytest.raises(UsageError, match="write no boxes"):
        draw_row(read_row(tmp_path / "rows.jsonl", frontend), frontend.checkpoint.family)


def test_several_pictures_are_numbered_and_none_is_replaced_unasked(tmp_path) -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    assert save_pictures([red], tmp_path / "out.png", False) == [tmp_path / "out.png"]
    (tmp_path / "out-2.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"out-2\.png is there already"):
        save_pictures([red, blue], tmp_path / "out.png", False)
    assert not (tmp_path / "out-1.png").exists() and (tmp_path / "out-2.png").read_bytes() == b"mine"
    files = save_pictures([red, blue], tmp_path / "out.png", True)
    with Image.open(files[1]) as written:
        assert written.getpixel((0, 0)) == (0, 0, 255)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("name", ["out.txt", "no/out.png"])
def test_names_that_no_picture_can_have_are_refused(name, tmp_path) -> None:
    with pytest.raises(UsageError, match="draw"):
        check_name(tmp_path / name)
