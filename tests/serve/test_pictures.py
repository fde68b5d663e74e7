"""Pictures of requests: what is read from where, and what is looked at before it is decoded."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from vlcore.errors import MediaError
from vlcore.fetch import FetchLimits
from vlcore.messages import Image as Picture
from vlcore.messages import Message, Text
from vlcore.serve.faults import RequestError
from vlcore.serve.pictures import PictureLimits, PictureReader, check_picture, find_path, read_inside
from vlcore.serve.protocol import Turn

from .conftest import draw, write_url

LIMITS = PictureLimits(2, 10_000, FetchLimits(5000))


def read(*turns: dict[str, object]) -> tuple[Message, ...]:
    with ThreadPoolExecutor(1) as pool:
        reader = PictureReader(LIMITS, pool)
        return asyncio.run(reader.read_messages([Turn.model_validate(turn) for turn in turns]))


def show(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_turns_become_messages_with_their_parts_in_order() -> None:
    turns = read({"role": "developer", "content": "Be kind."},
                 {"role": "user", "content": [show(write_url(draw("red"))), {"type": "text", "text": "And?"}]})
    assert [turn.role for turn in turns] == ["system", "user"]
    assert turns[1].content == (Picture(draw("red")), Text("And?"))


def test_too_many_pictures_are_refused_before_any_is_read() -> None:
    with pytest.raises(RequestError, match="3 pictures: a request may have 2"):
        read({"role": "user", "content": [show("/no/such/file")] * 3})


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_format_is_known_by_its_content(kind: str) -> None:
    check_picture(draw("red", kind=kind), "data:text/html;base64,", 10_000)


def test_a_jpeg_with_a_second_picture_is_none_that_moves() -> None:
    file = io.BytesIO()
    Image.new("RGB", (20, 20)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (10, 10))])
    check_picture(file.getvalue(), "a.jpg", 10_000)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(MediaError, match="it is no PNG, JPEG, WebP, GIF or BMP"):
        check_picture(draw("red", kind=kind), "a.png", 10_000)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(kind: str) -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(MediaError, match="it is an animation"):
        check_picture(file.getvalue(), "a.gif", 10_000)


def test_a_picture_with_too_many_pixels_is_refused_by_its_header() -> None:
    check_picture(draw("red", 300), "a.png", 9000)
    with pytest.raises(MediaError, match="301x30 exceeds 9000 pixels"):
        check_picture(draw("red", 301), "a.png", 9000)


def test_paths_are_followed_before_they_are_judged(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    (inside / "out").symlink_to(tmp_path)
    (inside / "near").symlink_to(inside / "sub")
    for good in ("a.png", "sub/../a.png", "near/a.png"):
        assert find_path(f"{inside}/{good}", [inside]).is_relative_to(inside)
    for bad in ("../a.png", "out/a.png", "sub/../../a.png", "\0"):
        with pytest.raises(MediaError, match="this server does not read such files"):
            find_path(f"{inside}/{bad}", [inside])
    with pytest.raises(MediaError, match="this server does not read such files"):
        find_path(f"{inside}-beside/a.png", [inside])


def test_files_and_data_urls_above_the_limit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(bytes(5001))
    limits = PictureLimits(1, 100, FetchLimits(5000), (tmp_path,))
    for url in (str(tmp_path / "large.png"), write_url(bytes(5001))):
        with pytest.raises(MediaError, match="it exceeds 5000 bytes"):
            read_inside(url, limits)
