"""Rows as people write them, in one file on disk, and what each family makes of them: prompt, media, trained text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image as PilImage
from vlcore.config import DataConfig
from vlcore.dataset import find_faults, make_read_options, read_rows
from vlcore.errors import UsageError
from vlcore.messages import Image
from vlcore.model import Frontend
from vlcore.template import Segment, render_prompt

INTERNVL2, INTERNVL1, YI, QWEN, DEEPSEEK = MODELS = (
    "internvl2-1b", "internvl-chat-v1_5", "yi-vl-6b-chat", "qwen-vl-chat", "deepseek-vl-1_3b-chat"
)  # fmt: skip
#: One question and its answer, and between « and » what is trained.
TURNS: Mapping[str, str] = {
    INTERNVL2: "<|im_start|>user\n{}<|im_end|><|im_start|>assistant\n«{}<|im_end|>»",
    INTERNVL1: "<|im_start|>user\n{}<|im_end|><|im_start|>assistant\n«{}<|im_end|>»",
    YI: "Human: {}\n### Assistant:« {}\n###» ",
    QWEN: "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n«{}<|im_end|>»\n",
    DEEPSEEK: "User: {}\n\nAssistant:« {}<｜end▁of▁sentence｜>»",
}
#: Questions and answers, one after the other, or the field that is at fault.
Expected = Sequence[str] | str
HISTORY = ("query1", "response1", "query2", "response2")
TWO = "Describe the two images in detail."
FRAMES = "".join(f"Frame{number}: [frame]\n" for number in range(1, 9))
CROWDED = "conversations[0].value"

#: Lines of a data file, byte by byte as the documents of the models have them, and what becomes of them by model.
TABLE: Sequence[tuple[str, Mapping[str, Expected]]] = (
    (r'{"query": "55555", "response": "66666"}', dict.fromkeys(MODELS, ("55555", "66666"))),
    (r'{"query": "eeeee", "response": "fffff", "history": []}   ', dict.fromkeys(MODELS, ("eeeee", "fffff"))),
    (r'{"query": "eeeee", "response": "fffff", "history": null, "images": null, "system": ""}',
     dict.fromkeys(MODELS, ("eeeee", "fffff"))),
    (r'{"query": "EEEEE", "response": "FFFFF", "history": [["query1", "response1"], ["query2", "response2"]]}',
     dict.fromkeys(MODELS, (*HISTORY, "EEEEE", "FFFFF"))),
    (r'{"query": "55555", "response": "66666", "images": ["image_path"]}', {
        INTERNVL2: ("[image_path]\n55555", "66666"),
        INTERNVL1: ("[image_path]\n55555", "66666"),
        YI: ("[image_path]\n55555", "66666"),
        QWEN: ("Picture 1: <img>[image_path]</img>\n55555", "66666"),
        DEEPSEEK: ("[image_path]55555", "66666"),
    }),
    (r'{"query": "55555", "response": "66666", "images": "image_path"}', {
        INTERNVL2: ("[image_path]\n55555", "66666"),
        INTERNVL1: ("[image_path]\n55555", "66666"),
        YI: ("[image_path]\n55555", "66666"),
        QWEN: ("Picture 1: <img>[image_path]</img>\n55555", "66666"),
        DEEPSEEK: ("[image_path]55555", "66666"),
    }),
    (r'{"query": "eeeee", "response": "fffff", "history": [], "images": ["image_path1", "image_path2"]}', {
        INTERNVL2: ("[image_path1]\n[image_path2]\neeeee", "fffff"),
        INTERNVL1: ("[image_path1]\n[image_path2]\neeeee", "fffff"),
        YI: "images",
        QWEN: ("Picture 1: <img>[image_path1]</img>\nPicture 2: <img>[image_path2]</img>\neeeee", "fffff"),
        DEEPSEEK: ("[image_path1][image_path2]eeeee", "fffff"),
    }),
    (r'{"query": "eeeee", "response": "fffff", "images": "image_path1,image_path2"}', {
        INTERNVL2: ("[image_path1]\n[image_path2]\neeeee", "fffff"),
        INTERNVL1: ("[image_path1]\n[image_path2]\neeeee", "fffff"),
        YI: "images",
        QWEN: ("Picture 1: <img>[image_path1]</img>\nPicture 2: <img>[image_path2]</img>\neeeee", "fffff"),
        DEEPSEEK: ("[image_path1][image_path2]eeeee", "fffff"),
    }),
    (r'{"query": "EEEEE", "response": "FFFFF", "history": [["query1", "response1"], ["query2", "response2"]], '
     r'"images": ["image_path"]}', {
        INTERNVL2: (*HISTORY, "[image_path]\nEEEEE", "FFFFF"),
        INTERNVL1: (*HISTORY, "[image_path]\nEEEEE", "FFFFF"),
        YI: ("[image_path]\nquery1", "response1", "query2", "response2", "EEEEE", "FFFFF"),
        QWEN: (*HISTORY, "Picture 1: <img>[image_path]</img>\nEEEEE", "FFFFF"),
        DEEPSEEK: (*HISTORY, "[image_path]EEEEE", "FFFFF"),
    }),
    (r'{"query": "EEEEE", "response": "FFFFF", "history": [["AAAAA", "BBBBB"], ["CCCCC", "DDDDD"]], '
     r'"images": ["image_path", "image_path2", "image_path3"]}', {
        INTERNVL2: ("AAAAA", "BBBBB", "CCCCC", "DDDDD", "[image_path]\n[image_path2]\n[image_path3]\nEEEEE", "FFFFF"),
        INTERNVL1: ("AAAAA", "BBBBB", "CCCCC", "DDDDD", "[image_path]\n[image_path2]\n[image_path3]\nEEEEE", "FFFFF"),
        YI: ("[image_path]\nAAAAA", "BBBBB", "[image_path2]\nCCCCC", "DDDDD", "[image_path3]\nEEEEE", "FFFFF"),
        QWEN: ("AAAAA", "BBBBB", "CCCCC", "DDDDD", "Picture 1: <img>[image_path]</img>\n"
               "Picture 2: <img>[image_path2]</img>\nPicture 3: <img>[image_path3]</img>\nEEEEE", "FFFFF"),
        DEEPSEEK: ("AAAAA", "BBBBB", "CCCCC", "DDDDD", "[image_path][image_path2][image_path3]EEEEE", "FFFFF"),
    }),
    (r'{"query": "a", "response": "b", "history": [["q", "r"]], "images": [null, "image_path"]}', {
        INTERNVL2: ("q", "r", "[image_path]\na", "b"),
        INTERNVL1: ("q", "r", "[image_path]\na", "b"),
        YI: ("q", "r", "[image_path]\na", "b"),
        QWEN: ("q", "r", "Picture 1: <img>[image_path]</img>\na", "b"),
        DEEPSEEK: ("q", "r", "[image_path]a", "b"),
    }),
    (r'{"query": "Image-1: <image>\nImage-2: <image>\nDescribe the two images in detail.", "response": "xxxxxxxxx", '
     r'"history": [["<image>Describe the image", "xxxxxxx"], ["CCCCC", "DDDDD"]], '
     r'"images": ["image_path1", "image_path2", "image_path3"]}', {
        INTERNVL2: ("[image_path1]Describe the image", "xxxxxxx", "CCCCC", "DDDDD",
                    f"Image-1: [image_path2]\nImage-2: [image_path3]\n{TWO}", "xxxxxxxxx"),
        INTERNVL1: "query",
        YI: "query",
        QWEN: ("<img>[image_path1]</img>Describe the image", "xxxxxxx", "CCCCC", "DDDDD",
               f"Image-1: <img>[image_path2]</img>\nImage-2: <img>[image_path3]</img>\n{TWO}", "xxxxxxxxx"),
        DEEPSEEK: ("[image_path1]Describe the image", "xxxxxxx", "CCCCC", "DDDDD",
                   f"Image-1: [image_path2]\nImage-2: [image_path3]\n{TWO}", "xxxxxxxxx"),
    }),
    (r'{"query": "Image-1: <img>img_path</img>\n Image-2: <img>img_path2</img>\n Describe the two images in detail.", '
     r'"response": "xxxxxxxxx", "history": [["<img>img_path3</img> Describe the image", "xxxxxxx"], '
     r'["CCCCC", "DDDDD"]] }', {
        INTERNVL2: ("[img_path3] Describe the image", "xxxxxxx", "CCCCC", "DDDDD",
                    f"Image-1: [img_path]\n Image-2: [img_path2]\n {TWO}", "xxxxxxxxx"),
        INTERNVL1: "query",
        YI: "query",
        QWEN: ("<img>[img_path3]</img> Describe the image", "xxxxxxx", "CCCCC", "DDDDD",
               f"Image-1: <img>[img_path]</img>\n Image-2: <img>[img_path2]</img>\n {TWO}", "xxxxxxxxx"),
        DEEPSEEK: ("[img_path3] Describe the image", "xxxxxxx", "CCCCC", "DDDDD",
                   f"Image-1: [img_path]\n Image-2: [img_path2]\n {TWO}", "xxxxxxxxx"),
    }),
    (r'{"conversations": [{"from": "user", "value": "Picture 1:<img>img_path</img>\n11111"}, '
     r'{"from": "assistant", "value": "22222"}]}', {
        INTERNVL2: ("Picture 1:[img_path]\n11111", "22222"),
        INTERNVL1: ("Picture 1:[img_path]\n11111", "22222"),
        YI: ("[img_path]\nPicture 1:\n11111", "22222"),
        QWEN: ("Picture 1:<img>[img_path]</img>\n11111", "22222"),
        DEEPSEEK: ("Picture 1:[img_path]\n11111", "22222"),
    }),
    (r'{"conversations": [{"from": "user", "value": "Picture 1:<img>img_path</img>\nPicture 2:<img>img_path2</img>\n'
     r'aaaaa"}, {"from": "assistant", "value": "bbbbb"}, {"from": "user", "value": "Picture 1:<img>img_path</img>\n'
     r'ccccc"}, {"from": "assistant", "value": "ddddd"}]}', {
        INTERNVL2: ("Picture 1:[img_path]\nPicture 2:[img_path2]\naaaaa", "bbbbb",
                    "Picture 1:[img_path]\nccccc", "ddddd"),
        INTERNVL1: "conversations[2].value",
        YI: CROWDED,
        QWEN: ("Picture 1:<img>[img_path]</img>\nPicture 2:<img>[img_path2]</img>\naaaaa", "bbbbb",
               "Picture 1:<img>[img_path]</img>\nccccc", "ddddd"),
        DEEPSEEK: ("Picture 1:[img_path]\nPicture 2:[img_path2]\naaaaa", "bbbbb",
                   "Picture 1:[img_path]\nccccc", "ddddd"),
    }),
    (r'{"conversations": [{"from": "user", "value": "<img>img_path</img><img>img_path2</img><img>img_path3</img>aaaaa'
     r'"}, {"from": "assistant", "value": "bbbbb"}]}', {
        INTERNVL2: ("[img_path][img_path2][img_path3]aaaaa", "bbbbb"),
        INTERNVL1: ("[img_path][img_path2][img_path3]aaaaa", "bbbbb"),
        YI: CROWDED,
        QWEN: ("<img>[img_path]</img><img>[img_path2]</img><img>[img_path3]</img>aaaaa", "bbbbb"),
        DEEPSEEK: ("[img_path][img_path2][img_path3]aaaaa", "bbbbb"),
    }),
    (r'{"conversations": [{"from": "user", "value": "AAAAA"}, {"from": "assistant", "value": "BBBBB"}, '
     r'{"from": "user", "value": "CCCCC"}, {"from": "assistant", "value": "DDDDD"}]}',
     dict.fromkeys(MODELS, ("AAAAA", "BBBBB", "CCCCC", "DDDDD"))),
    (r'{"image": "images/cat.jpg", "conversations": [{"from": "human", "value": "<image_placeholder>\nDescribe the '
     r'cats."}, {"from": "assistant", "value": "There are three."}]}', {
        INTERNVL2: ("[cat.jpg]\nDescribe the cats.", "There are three."),
        INTERNVL1: ("[cat.jpg]\nDescribe the cats.", "There are three."),
        YI: ("[cat.jpg]\nDescribe the cats.", "There are three."),
        QWEN: ("<img>[cat.jpg]</img>\nDescribe the cats.", "There are three."),
        DEEPSEEK: ("[cat.jpg]\nDescribe the cats.", "There are three."),
    }),
    (r'{"image": "images/cat.jpg", "conversations": [{"from": "human", "value": "<image>Which?"}, '
     r'{"from": "gpt", "value": "Three."}]}', {
        INTERNVL2: ("[cat.jpg]Which?", "Three."),
        INTERNVL1: ("[cat.jpg]Which?", "Three."),
        YI: ("[cat.jpg]\nWhich?", "Three."),
        QWEN: ("<img>[cat.jpg]</img>Which?", "Three."),
        DEEPSEEK: ("[cat.jpg]Which?", "Three."),
    }),
    (r'{"messages": [{"role": "user", "content": [{"type": "text", "text": "This "}, {"type": "image_url", '
     r'"image_url": {"url": "DATA_URL"}}, {"type": "text", "text": "?"}]}, {"role": "assistant", "content": "Yes"}]}', {
        INTERNVL2: ("This [data]\n?", "Yes"),
        INTERNVL1: ("This [data]\n?", "Yes"),
        YI: ("[data]\nThis ?", "Yes"),
        QWEN: ("This Picture 1: <img>[data]</img>\n?", "Yes"),
        DEEPSEEK: ("This [data]?", "Yes"),
    }),
    (r'{"messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}], '
     r'"images": ["img_path"]}', {
        INTERNVL2: ("[img_path]a", "b"),
        INTERNVL1: ("[img_path]a", "b"),
        YI: ("[img_path]\na", "b"),
        QWEN: ("<img>[img_path]</img>a", "b"),
        DEEPSEEK: ("[img_path]a", "b"),
    }),
    (r'{"query": "Describe this video in detail. Don' "'" r't repeat", "response": "xxxxxxxxx", "history": [], '
     r'"videos": ["video_path"]}', {
        INTERNVL2: (FRAMES + "Describe this video in detail. Don't repeat", "xxxxxxxxx"),
        INTERNVL1: (FRAMES + "Describe this video in detail. Don't repeat", "xxxxxxxxx"),
        **dict.fromkeys((YI, QWEN, DEEPSEEK), "video"),
    }),
    (r'{"query": "Find <bbox>", "response": "<ref-object>", "images": ["train2014/1507.jpg"], "objects": '
     r'"[{\"caption\": \"guy in red\", \"bbox\": [138, 136, 235, 359], \"bbox_type\": \"real\", \"image\": 0}]" }', {
        INTERNVL2: ("[1507.jpg]\nFind <box>[[215, 283, 367, 747]]</box>", "<ref>guy in red</ref>"),
        INTERNVL1: ("[1507.jpg]\nFind <box>[[215, 283, 367, 747]]</box>", "<ref>guy in red</ref>"),
        QWEN: ("Picture 1: <img>[1507.jpg]</img>\nFind <box>(215,283),(367,747)</box>", "<ref>guy in red</ref>"),
        **dict.fromkeys((YI, DEEPSEEK), "objects"),
    }),
    (r'{"query": "Find <ref-object>", "response": "<bbox>", "images": ["train2014/1507.jpg"], "objects": '
     r'[{"caption": "guy in red", "bbox": [138, 136, 235, 359], "bbox_type": "norm_1000", "image": null}]}', {
        INTERNVL2: ("[1507.jpg]\nFind <ref>guy in red</ref>", "<box>[[138, 136, 235, 359]]</box>"),
        INTERNVL1: ("[1507.jpg]\nFind <ref>guy in red</ref>", "<box>[[138, 136, 235, 359]]</box>"),
        QWEN: ("Picture 1: <img>[1507.jpg]</img>\nFind <ref>guy in red</ref>", "<box>(138,136),(235,359)</box>"),
        **dict.fromkeys((YI, DEEPSEEK), "objects"),
    }),
    (r'{"query": "<image>, <image>: find <ref-object>", "response": "<bbox>", "images": ["train2014/1507.jpg", '
     r'"img_path"], "objects": [{"caption": "it", "bbox": [8, 3, 16, 12], "bbox_type": "real", "image": 1}]}', {
        INTERNVL2: ("[1507.jpg], [img_path]: find <ref>it</ref>", "<box>[[500, 250, 1000, 1000]]</box>"),
        INTERNVL1: ("[1507.jpg], [img_path]: find <ref>it</ref>", "<box>[[500, 250, 1000, 1000]]</box>"),
        QWEN: ("<img>[1507.jpg]</img>, <img>[img_path]</img>: find <ref>it</ref>", "<box>(500,250),(999,999)</box>"),
        YI: "query", DEEPSEEK: "objects",
    }),
    (r'{"query": "<ref-object>?", "response": "<bbox>", "images": ["img_path"], "objects": '
     r'[{"caption": "it", "bbox": [0.25, 0, 0.5, 1], "bbox_type": "norm_1"}]}', {
        INTERNVL2: ("[img_path]\n<ref>it</ref>?", "<box>[[250, 0, 500, 1000]]</box>"),
        INTERNVL1: ("[img_path]\n<ref>it</ref>?", "<box>[[250, 0, 500, 1000]]</box>"),
        QWEN: ("Picture 1: <img>[img_path]</img>\n<ref>it</ref>?", "<box>(250,0),(500,999)</box>"),
        **dict.fromkeys((YI, DEEPSEEK), "objects"),
    }),
    (r'{"query": "Find <ref>the man</ref>", "response": "<box> [[200, 200, 600, 600]] </box>"}',
     dict.fromkeys(MODELS, ("Find <ref>the man</ref>", "<box> [[200, 200, 600, 600]] </box>"))),
)  # fmt: skip


def draw(folder: Path) -> None:
    """The media that the table names."""
    names = ["image_path", "image_path1", "image_path2", "image_path3", "img_path", "img_path2", "img_path3"]
    sizes = {**dict.fromkeys(names, (16, 12)), "images/cat.jpg": (9, 7), "train2014/1507.jpg": (640, 480)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(exist_ok=True)
        PilImage.new("RGB", size).save(folder / name, "PNG")
    frames = [PilImage.new("L", (16, 12), grey) for grey in range(0, 200, 20)]
    frames[0].save(folder / "video_path", "GIF", save_all=True, append_images=frames[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    draw(folder)
    return folder


def write(folder: Path, lines: Sequence[str], name: str = "rows.jsonl") -> str:
    """A file with a byte order mark, Windows' line ends and blank lines between the rows."""
    data = base64.b64encode((folder / "img_path").read_bytes()).decode()
    text = "\r\n\r\n".join(lines).replace("DATA_URL", f"data:image/png;base64,{data}")
    (folder / name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n \r\n")
    return str(folder / name)


def name_image(image: Image) -> str:
    """How an image is shown here: its file's name, or what it is."""
    if isinstance(image.source, bytes):
        return "frame"
    return "data" if str(image.source).startswith("data:") else Path(str(image.source)).name


def show(segments: Sequence[Segment]) -> str:
    """A prompt's text with media by name, and between « and » what is trained."""
    pieces, trained = [], False
    for segment in segments:
        if segment.trained != trained:
            pieces.append("«" if segment.trained else "»")
        trained = segment.trained
        if segment.kind == "media":
            pieces += [f"[{name_image(image)}]" for image in segment.images]
        else:
            pieces.append(segment.text if segment.shown is None else segment.shown)
    return "".join(pieces) + "»" * trained


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_rows_of_every_form_in_one_file(
    model: str, suffix: str, folder: Path, open_frontend: Callable[[str], Frontend]
) -> None:
    frontend = open_frontend(model)
    options = make_read_options(DataConfig(), frontend.checkpoint.family, record=frontend.checkpoint.record)
    sound = [(line, made[model]) for line, made in TABLE if not isinstance(made[model], str) or made[model] == "video"]
    path = write(folder, [line for line, _ in sound], f"{model}.jsonl")
    if suffix == "json":
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\r\n\r\n")
        path = path.removesuffix("l")
        Path(path).write_bytes(b"\xef\xbb\xbf [" + b",\r\n".join(lines) + b"]\r\n")
    start = ""
    for row, (_, turns) in zip(read_rows(path, options), sound, strict=True):
        if turns == "video":
            with pytest.raises(UsageError, match="video_path: this model takes images only"):
                frontend.plan(row.messages, train=True)
            continue
        segments = frontend.write_segments(row.messages, train=True)
        start = start or show(segments).removesuffix(write_turns(model, turns))
        assert show(segments) == start + write_turns(model, turns)
        layout = frontend.plan(row.messages, train=True)
        assert layout.prompt == render_prompt(segments)
        assert frontend.encode(row.messages, train=True).labels == layout.labels


def write_turns(model: str, turns: Expected) -> str:
    return "".join(TURNS[model].format(*pair) for pair in zip(turns[::2], turns[1::2], strict=True))


@pytest.mark.parametrize("model", MODELS)
def test_rows_that_a_family_cannot_take_name_line_and_field(
    model: str, folder: Path, open_frontend: Callable[[str], Frontend]
) -> None:
    checkpoint = open_frontend(model).checkpoint
    options = make_read_options(DataConfig(), checkpoint.family, record=checkpoint.record)
    path = write(folder, [line for line, _ in TABLE], f"{model}-all.jsonl")
    faults = [(at, made[model]) for at, (_, made) in enumerate(TABLE) if isinstance(made[model], str)]
    expected = [f"{path}:{2 * at + 1}: {field}" for at, field in faults if field != "video"]
    assert [fault.given for fault in find_faults(path, options)] == expected


def test_a_comma_that_json_does_not_allow_is_named(folder: Path) -> None:
    row = '{"query": "a", "response": "b", "history": [["CCCCC", "DDDDD"]], }'
    (fault,) = find_faults(write(folder, [json.dumps({"query": "a", "response": "b"}), row], "comma.jsonl"))
    assert fault.given.endswith("comma.jsonl:3") and "a comma before a closing bracket" in fault.why
