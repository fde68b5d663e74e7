import base64
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image as PilImage
from vlcore import media
from vlcore.errors import MediaError
from vlcore.media import describe, fetch_media, normalise, open_image, read_size
from vlcore.messages import Image, Text, Video, make_message


def draw(mode="RGB", size=(6, 4)):
    """A small picture whose pixels all differ."""
    picture = PilImage.frombytes("RGB", size, bytes(range(size[0] * size[1] * 3)))
    if mode == "RGBA":
        picture.putalpha(PilImage.frombytes("L", size, bytes(range(0, size[0] * size[1] * 10, 10))))
    return picture.convert(mode)


def pack(picture, kind="PNG", **more):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.fixture
def sources(tmp_path):
    """One picture in every form that is taken."""
    path = tmp_path / "a picture.png"
    path.write_bytes(pack(draw()))
    data = base64.b64encode(path.read_bytes()).decode()
    return {"path": path, "text": str(path), "file URL": path.as_uri(), "bytes": path.read_bytes(), "PIL": draw(),
            "data URL": f"data:image/png;base64,{data}"}


@pytest.mark.parametrize("form", ["path", "text", "file URL", "bytes", "PIL", "data URL"])
def test_picture_comes_from_every_form_of_source(form, sources):
    image = Image(sources[form])
    assert read_size(image) == (6, 4)
    assert open_image(image).tobytes() == draw().tobytes()


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "1", "CMYK", "I;16", "PA"])
def test_conversion_to_rgb_is_pils_plain_one(mode):
    picture = PilImage.new("I;16", (6, 4), 300) if mode == "I;16" else draw(mode)
    opened = open_image(Image(picture))
    assert opened.mode == "RGB" and opened.tobytes() == picture.convert("RGB").tobytes()


def test_transparent_palette_is_converted_as_pil_does():
    data = pack(draw("P"), transparency=0)
    assert open_image(Image(data)).tobytes() == PilImage.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_rotation_in_exif_is_not_applied():
    exif = PilImage.Exif()
    exif[0x0112] = 6
    data = pack(draw(), "JPEG", exif=exif)
    assert read_size(Image(data)) == open_image(Image(data)).size == (6, 4)


def test_given_pil_image_stays_open_and_as_it_was():
    picture = draw("L")
    read_size(Image(picture))
    assert open_image(Image(picture)).mode == "RGB"
    assert picture.mode == "L" and picture.tobytes()


def refuse(source, call=open_image):
    with pytest.raises(MediaError) as caught:
        call(Image(source))
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_file_is_named(tmp_path):
    error = refuse(tmp_path / "gone.png", read_size)
    assert error.given == f"image {tmp_path / 'gone.png'}"
    assert (error.why, error.do) == ("it cannot be read (No such file or directory)", "check the path")


def test_folder_is_refused(tmp_path):
    assert refuse(tmp_path).why == "it is no file"


@pytest.mark.parametrize("read", [read_size, open_image])
def test_what_waits_for_a_writer_is_refused(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert refuse(tmp_path / "pipe.png", read).why == "it is no file"


def test_a_picture_without_pixels_is_refused():
    assert refuse(PilImage.new("RGB", (0, 7)), read_size).why == "it has no pixels"


def test_a_name_is_one_line_of_a_message(tmp_path):
    assert describe(Image("a\nb.png")) == "image a\\nb.png"
    assert len(describe(Image("https://example.com/" + "a" * 9000))) < 200


@pytest.mark.parametrize("content", [b"just text", b"", b'<svg xmlns="http://www.w3.org/2000/svg"/>'])
def test_file_that_is_no_picture_is_refused_whatever_its_name(content, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (path, content):
        error = refuse(source, read_size)
        assert (error.why, error.do) == ("it is no image that Pillow can read", "give PNG, JPEG or WebP")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.75, 0.9])
def test_truncated_picture_is_refused(kind, part):
    data = pack(PilImage.effect_noise((64, 64), 90).convert("RGB"), kind)
    error = refuse(data[: int(len(data) * part)])
    assert error.given == f"image of {int(len(data) * part)} bytes"
    assert error.why.startswith(("it cannot be decoded (", "it is no image that Pillow can read"))


def test_size_of_a_truncated_picture_is_known_from_its_header():
    data = pack(PilImage.effect_noise((64, 64), 90))
    assert read_size(Image(data[: len(data) // 2])) == (64, 64)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("data:image/png;base64,%%%", "its base64 is damaged"),
        ("data:image/png;base64,AAA", "its base64 is damaged"),
        ("data:image/png;base64,ä", "its base64 is damaged"),
        ("data:image/png,abc", "it is a data URL without ;base64"),
        ("data:", "it is a data URL without ;base64"),
        ("data:image/png;base64,QUJD", "it is no image that Pillow can read"),
    ],
)
def test_damaged_data_url_is_refused(url, why):
    assert refuse(url).why.startswith(why)


def test_long_data_url_is_cut_in_the_message():
    assert len(refuse("data:image/png;base64," + "QUJD" * 1000).given) < 80


@pytest.mark.parametrize("form", ["path", "file URL", "bytes", "data URL"])
def test_more_bytes_than_the_limit_are_refused_before_decoding(form, sources, monkeypatch):
    monkeypatch.setattr(media, "MAX_BYTES", 20)
    assert "it exceeds 20 bytes" in refuse(sources[form], read_size).why


@pytest.mark.parametrize("form", ["path", "bytes", "PIL"])
def test_more_pixels_than_the_limit_are_refused_before_decoding(form, sources, monkeypatch):
    monkeypatch.setattr(media, "MAX_PIXELS", 20)
    assert refuse(sources[form], read_size).why == "6x4 exceeds 20 pixels"


def test_decompression_bomb_is_refused(sources, monkeypatch):
    monkeypatch.setattr(PilImage, "MAX_IMAGE_PIXELS", 10)
    assert "could be decompression bomb" in refuse(sources["bytes"], read_size).why


class Web(BaseHTTPRequestHandler):
    """/ok gives a picture, /moved leads to it, everything else is missing."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response({"/ok": 200, "/moved": 302}.get(self.path, 404))
        self.send_header("Location", "/ok")
        self.end_headers()
        self.wfile.write(pack(draw()) if self.path == "/ok" else b"")

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.asked = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/ok", "/moved"])
def test_picture_comes_from_a_url(path, web):
    assert open_image(Image(web.url + path)).tobytes() == draw().tobytes()


def test_missing_page_is_refused(web):
    error = refuse(f"{web.url}/gone")
    assert (error.given, error.why) == (f"URL {web.url}/gone", "it cannot be fetched (Not Found)")


def test_download_above_the_limit_is_refused(web):
    with pytest.raises(MediaError, match="it exceeds 20 bytes"):
        media.download(f"{web.url}/ok", limit=20)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.png", "http://a b/x.png", "http://[::/x.png", "https://"])
def test_url_that_cannot_be_asked_is_refused(url):
    assert refuse(url).why.startswith("it cannot be fetched (")


def test_urls_of_messages_are_fetched_once(web):
    url = f"{web.url}/ok"
    message = make_message("user", ["look", Image(url), Image("a.png"), Video(frames=(Image(url),))])
    (fetched,) = fetch_media([message])
    text, image, path, video = fetched.content
    assert (text, path) == (Text("look"), Image("a.png"))
    assert image == video.frames[0] == Image(pack(draw()))
    read_size(image)
    assert web.asked == ["/ok", "/ok"]
    assert message.media[0] == Image(url)


def test_home_folder_is_not_expanded_in_a_path_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("~a.png").write_bytes(pack(draw()))
    assert read_size(Image("~a.png")) == (6, 4)


class Plain:
    """A processor of a plugin that normalises its pixels itself."""


class Halver:
    """A processor whose pixels are bytes."""

    def normalise(self, pixels):
        return {name: tensor.float() / 2 for name, tensor in pixels.items()}


def test_bytes_alone_are_normalised_and_a_second_time_changes_nothing():
    batch = {"input_ids": torch.tensor([[5]]), "mask": torch.tensor([True]), "scale": torch.tensor([3.0]),
             "pixel_values": torch.tensor([7], dtype=torch.uint8)}
    fed = normalise(Halver(), batch)
    assert fed["pixel_values"].tolist() == [3.5] and batch["pixel_values"].dtype == torch.uint8
    assert all(fed[name] is batch[name] for name in ("input_ids", "mask", "scale"))
    assert normalise(Halver(), fed)["pixel_values"] is fed["pixel_values"]


def test_floats_of_a_processor_that_normalises_nothing_stay_as_they_are():
    batch = {"pixel_values": torch.tensor([0.25])}
    assert normalise(Plain(), batch) == batch


def test_a_decoded_picture_is_not_copied_and_a_given_one_is(tmp_path):
    given = PilImage.new("RGB", (3, 2), "red")
    assert open_image(Image(given)) is not given
    given.save(tmp_path / "a.png")
    opened = open_image(Image(tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    assert opened.mode == "RGB" and opened.copy().getpixel((2, 1)) == (255, 0, 0)
