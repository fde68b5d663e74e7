"""Ten thousand damaged rows: each loads, all the way to its pixels, or is an error that names file, line and field."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from vlcore.config import DataConfig
from vlcore.dataset import make_read_options, read_rows
from vlcore.errors import DataError, VlcoreError
from vlcore.forecast import name_row
from vlcore.model import Frontend

MODELS = ("internvl2-1b", "internvl-chat-v1_5", "yi-vl-6b-chat", "qwen-vl-chat", "deepseek-vl-1_3b-chat")
#: Rows of each model; five models make ten thousand.
COUNT = 2000


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (9, 7)) -> bytes:
    file = io.BytesIO()
    PilImage.linear_gradient("L").resize(size).convert(mode).save(file, kind)
    return file.getvalue()


PNG = picture()
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
#: Nobody listens there.
URL = "http://127.0.0.1:9/a.png"
#: What names a medium in a sound row.
MEDIUM = re.compile(r"[a-z]+\.(png|gif|jpg|webp)|data:.*|http:.*|^frames$")
BOX = {"caption": "cat", "bbox": [1, 2, 5, 6], "bbox_type": "real", "image": 0}


def talk(role: str, text: str, *turns: Any) -> list[dict[str, Any]]:
    names = {"from": ("user", "assistant"), "role": ("human", "gpt")}[role]
    return [{role: names[i % 2], text: turn} for i, turn in enumerate(turns)]


#: A sound row of every form and of every way to name media.
SOUND: tuple[dict[str, Any], ...] = (
    {"query": "a", "response": "b"},
    {"query": "c", "response": "d", "history": [["a", "b"]], "system": "S", "images": ["a.png"]},
    {"query": "c", "response": "d", "history": [["<image>a", "b"]], "images": "a.png"},
    {"query": "<image> and <image>?", "response": "x", "images": ["a.png", "b.gif"]},
    {"query": "a", "response": "b", "images": "a.png,c.jpg"},
    {"query": "Picture 1:<img>a.png</img>\nWhat?", "response": "x"},
    {"query": "a", "response": "b", "image": DATA_URL},
    {"query": "a", "response": "b", "images": [URL]},
    {"query": "a", "response": "b", "videos": ["moves.gif"]},
    {"query": "<video>a", "response": "b", "videos": ["frames"], "history": None},
    {"query": "Find <bbox>", "response": "<ref-object>", "images": ["a.png"], "objects": [BOX]},
    {"query": "Find <ref-object>", "response": "<bbox>", "images": ["a.png"], "objects": json.dumps([BOX])},
    {"query": "<bbox>", "response": "x", "objects": [BOX | {"bbox": [.1, .2, .3, .4], "bbox_type": "norm_1"}]},
    {"conversations": talk("from", "value", "a", "b", "<img>a.png</img>c", "d")},
    {"conversations": talk("from", "value", "<image_placeholder>\na", "b"), "image": "a.png"},
    {"messages": talk("role", "content", "<image>a", "b"), "images": ["a.png"]},
    {"messages": talk("role", "content", [{"type": "image", "image": "d.webp"}, {"type": "text", "text": "a"}], "b")},
    {"messages": talk("role", "content", [{"type": "image_url", "image_url": {"url": DATA_URL}}], "b")},
    {"messages": talk("role", "content", [{"type": "video", "frames": ["a.png", "c.jpg"]}], "b")},
    {"messages": talk("role", "content", [{"type": "image"}], "b"), "images": ["a.png"]},
)  # fmt: skip


def write_media(folder: Path) -> list[str]:
    """Files that are sound, damaged, something else, or no file at all; what a row may call them."""
    for name, kind in (("a.png", "PNG"), ("b.gif", "GIF"), ("c.jpg", "JPEG"), ("d.webp", "WEBP")):
        data = picture(kind)
        (folder / name).write_bytes(data)
        for cut in (0, 1, 7, 20, len(data) // 2, len(data) - 3):
            (folder / f"cut{cut}-{name}").write_bytes(data[:cut])
        for at in range(8, len(data), max(1, len(data) // 12)):
            flipped = bytes([data[at] ^ (1 << at % 8)])
            (folder / f"flip{at}-{name}").write_bytes(data[:at] + flipped + data[at + 1 :])
    header = bytearray(PNG)
    for name, size in (("wide.png", (60_000, 60_000)), ("none.png", (0, 7)), ("long.png", (2**31 - 1, 1))):
        header[16:24] = b"".join(edge.to_bytes(4, "big") for edge in size)
        (folder / name).write_bytes(header)
    (folder / "bomb.gif").write_bytes(b"GIF89a" + b"\xff" * 40)
    (folder / "none.gif").write_bytes(b"GIF89a\0\0\0\0\0\0\0,\0\0\0\0\0\0\0\0\0\2\0;")
    (folder / "none.pgm").write_bytes(b"P5 0 0 255\n")
    (folder / "thin.png").write_bytes(picture(size=(1, 900)))
    for mode in ("1", "L", "P", "LA", "RGBA", "I;16"):
        (folder / f"mode{mode.replace(';', '')}.png").write_bytes(picture(mode=mode))
    (folder / "cmyk.jpg").write_bytes(picture("JPEG", "CMYK"))
    (folder / "float.tiff").write_bytes(picture("TIFF", "F"))
    (folder / "jpeg.png").write_bytes(picture("JPEG"))
    (folder / "vector.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    (folder / "moves.gif").write_bytes(moving_picture())
    (folder / "cut.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(20))
    os.mkfifo(folder / "fifo.png")
    (folder / "loop.png").symlink_to("loop.png")
    for frames in ("frames", "empty"):
        (folder / frames).mkdir()
    for number in range(3):
        (folder / "frames" / f"{number}.png").write_bytes(PNG)
    return sorted(path.name for path in folder.iterdir()) + STRANGE


def moving_picture() -> bytes:
    file = io.BytesIO()
    frames = [PilImage.new("L", (8, 6), grey) for grey in (0, 90, 180)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


#: What is no name of a file, or of none that can be read.
STRANGE = ["", " ", ".", "/dev/null", "/dev/zero", "no.png", "a\0.png", "a.png\n", "x" * 5000, "\ud800.png", "a.png,,",
           "file:///no", "file://a.png", "file:", "http://", "http://[", "https://\ud800/", URL, "http://127.0.0.1:x/",
           "data:", "data:,", "data:image/png;base64,", "data:image/png;base64,A", DATA_URL[:-9], DATA_URL]
#: Becomes a list in a list in a list, 800 times.
DEEP = "@deep"
TEXTS = ["", "<image>", "<video>", "<img>a.png</img>", "<img>", "</img>", "<bbox>", "<ref-object>", "<|im_end|>", "###",
         "<image_placeholder>", "<|endoftext|>", "<box>", "\0", "\ud800", "\udfff\ud83d", "\ufeff", "\u202e",
         "é" * 2000, "null", "[]", "[" * 5000, '[{"caption": "\\ud800"}]', DEEP]
NUMBERS = [0, 1, -1, 2, 999, 2**63, 10**400, 1e308, -0.5, 1e-320, math.nan, math.inf, -math.inf, True, False]
KEYS = ["query", "response", "history", "system", "images", "image", "videos", "video", "objects", "messages", "loss",
        "conversations", "role", "from", "value", "content", "type", "text", "image_url", "video_url", "url", "path",
        "frames", "caption", "bbox", "bbox_type", "id", "", "q" * 3000, "\ud800", "Query", "imags"]  # fmt: skip


def list_places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a row: the keys that lead there."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, item in inside for found in list_places(item, (*place, key)))]


def put(value: Any, place: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with what stands at a place changed."""
    if not place:
        return change(value)
    copy = value.copy()
    copy[place[0]] = put(copy[place[0]], place[1:], change)
    return copy


def damage(value: Any, way: str, new: Any, key: str) -> Any:
    """What becomes of a part of a row."""
    if way == "grow" and isinstance(value, dict):
        return {**value, key: new}
    if way == "lose" and isinstance(value, dict | list) and value:
        return dict(list(value.items())[1:]) if isinstance(value, dict) else value[1:]
    if way == "repeat" and isinstance(value, str | list):
        return value * 2
    if way == "join" and isinstance(value, str) and isinstance(new, str):
        return value + new
    return {"wrap": [value], "unwrap": next(iter(value), None) if isinstance(value, list) else new}.get(way, new)


def damaged_lines(media: list[str]) -> st.SearchStrategy[bytes]:
    """Lines of a data file: a sound row with other media, with other values, or with its text changed."""
    row, way = st.sampled_from(SOUND), st.sampled_from(["media"] * 4 + ["values"] * 4 + ["text"])
    medium, count, key = st.sampled_from(media), st.sampled_from([1, 1, 1, 2, 3]), st.sampled_from(KEYS)
    change = st.sampled_from(["replace", "replace", "grow", "lose", "repeat", "join", "wrap", "unwrap"])
    leaf = st.sampled_from([*media, *TEXTS, *NUMBERS, None])
    new = leaf | st.lists(leaf, max_size=4) | st.dictionaries(key, leaf, max_size=3) | st.text(max_size=5)
    splice, cut, ascii_only = st.sampled_from(SPLICES), st.sampled_from([0, 0, 1, 9, 10**6]), st.booleans()
    share = st.integers(0, 999)

    @st.composite
    def lines(draw: st.DrawFn) -> bytes:
        made, chosen = draw(row), draw(way)
        if chosen == "media":
            for place in [place for place in list_places(made) if names_medium(find(made, place))]:
                name = draw(medium)
                made = put(made, place, lambda text, name=name: MEDIUM.sub(lambda found: name, text, count=1))
        elif chosen == "values":
            for _ in range(draw(count)):
                places = list_places(made)[1:] or [()]
                place = places[draw(share) * len(places) // 1000]
                made = put(made, place, partial(damage, way=draw(change), new=draw(new), key=draw(key)))
        text = json.dumps(made, ensure_ascii=draw(ascii_only)).encode("utf-8", "surrogatepass")
        text = text.replace(json.dumps(DEEP).encode(), b"[" * 800 + b"]" * 800)
        if chosen != "text":
            return text
        at = draw(share) * len(text) // 1000
        return text[:at] + draw(splice) + text[at + draw(cut) :]

    return lines()


def find(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place of a row."""
    return find(value[place[0]], place[1:]) if place else value


def names_medium(value: Any) -> bool:
    return isinstance(value, str) and MEDIUM.search(value) is not None


#: What comes into the text of a line.
SPLICES = [b"\xff", b"\0", b"\r", b"\n", b"\\u0000", b"\\ud800", b"1" * 5000, b"1e999", b"NaN", b"-Infinity", b",",
           b"}", b'"', b"[" * 10_000, b'{"a":' * 10_000, b'"query": "again", ', b"\\"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def media(folder: Path) -> list[str]:
    return write_media(folder)


def load(path: Path, frontend: Frontend) -> None:
    """Reads a file's rows and encodes each, as training does."""
    options = make_read_options(DataConfig(), frontend.checkpoint.family, record=frontend.checkpoint.record)
    for row in read_rows(str(path), options):
        try:
            layout = frontend.plan(row.messages, train=True)
            example = frontend.encode(row.messages, train=True)
        except VlcoreError as error:
            raise name_row(row, error) from error
        assert example.ids == layout.ids


@pytest.mark.parametrize("model", MODELS)
def test_a_damaged_row_loads_or_is_an_error_that_names_it(
    model: str, folder: Path, media: list[str], open_frontend: Callable[[str], Frontend]
) -> None:
    frontend, path = open_frontend(model), folder / f"{model}.jsonl"

    @seed(MODELS.index(model))
    @settings(max_examples=COUNT, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged_lines(media))
    def check(line: bytes) -> None:
        path.write_bytes(line)
        try:
            load(path, frontend)
        except DataError as error:
            assert re.match(re.escape(str(path)) + r"(:\d+(: .+)?)?$", error.given, re.DOTALL)
            assert error.why and error.do and len(str(error)) < 2000

    check()
