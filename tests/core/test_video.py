from __future__ import annotations

import base64
import io
import itertools
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import av
import pytest
import vlcore
from PIL import Image as PilImage
from vlcore import video as video_module
from vlcore.config import GenerateConfig, LoadConfig
from vlcore.console import Talk, Terminal
from vlcore.dataset import read_rows
from vlcore.errors import ExtraMissing, MediaError, UsageError, VlcoreError
from vlcore.media import open_image
from vlcore.messages import Image, Video, make_message, user, write_message
from vlcore.model import Frontend, VLModel, build_frontend
from vlcore.resolve import resolve_model
from vlcore.video import describe_video, outline_video, sample_video

DATA = Path(__file__).parents[1] / "parity" / "data"
MODEL = DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint"
FRAMES, SIZE, STEP = 30, (64, 48), 8
#: What InternVL takes of 30 frames when it answers and when it trains.
ANSWERING, TRAINING = [1, 5, 8, 12, 15, 19, 23, 26], [1, 4, 8, 12, 16, 19, 23, 27]


def draw(number: int) -> PilImage.Image:
    """A picture whose grey tells its number."""
    return PilImage.new("RGB", SIZE, (number * STEP,) * 3)


def number_of(frame: Image) -> int:
    grey = open_image(frame).convert("L").getpixel((20, 20))
    assert isinstance(grey, int)
    return round(grey / STEP)


def numbers(video: Any) -> list[int]:
    return [number_of(frame) for frame in video.frames]


def film(kind: str = "mp4", codec: str = "mpeg4", gop: int = 12, frames: int = FRAMES) -> bytes:
    """A film of numbered frames, ten a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", gop
        if codec == "mpeg4":  # which else makes a key frame of every change
            stream.options = {"sc_threshold": "1000000000"}
        for number in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(draw(number))))
        container.mux(stream.encode())
    return file.getvalue()


def animation(kind: str, frames: int = FRAMES, **settings: Any) -> bytes:
    file = io.BytesIO()
    first, *rest = map(draw, range(frames))
    first.save(file, kind, save_all=True, append_images=rest, duration=100, **settings)
    return file.getvalue()


def choose(*chosen: int) -> Callable[[int, float], tuple[int, ...]]:
    return lambda count, fps: chosen


def refuse(source: Any) -> MediaError:
    with pytest.raises(MediaError) as caught:
        sample_video(Video(source), lambda count, fps: tuple(range(count)))
    return caught.value


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "a film.mp4"
    path.write_bytes(film())
    return path


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(MODEL, dtype="fp32")


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "mpeg4"), ("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9"),
        ("avi", "mpeg4"), ("mpegts", "libx264"), ("h264", "libx264"),
    ],
)  # fmt: skip
def test_the_chosen_frames_of_a_film_are_taken(kind: str, codec: str) -> None:
    found = Video(film(kind, codec))
    info = describe_video(found)
    assert (info.frames, info.size) == (FRAMES, SIZE)
    assert info.fps == 10 or kind == "h264"  # which says nothing of its speed
    assert numbers(sample_video(found, choose(29, 0, 5, 5, 17, 12))) == [29, 0, 5, 5, 17, 12]
    everything = sample_video(found, lambda count, fps: tuple(range(count)))
    assert numbers(everything) == list(range(FRAMES))


def test_a_film_is_decoded_from_the_key_frame_before(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    decode = video_module._Film._decode

    def count(*given: Any) -> Iterator[Any]:
        for frame in decode(*given):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video_module._Film, "_decode", count)
    monkeypatch.setattr(video_module._Film, "_take_in_order", lambda *given: pytest.fail("decoded in order"))
    assert numbers(sample_video(Video(film(gop=10)), choose(21, 3))) == [21, 3]
    first, from_zero, from_twenty = 1, 4, 2
    assert len(decoded) == first + from_zero + from_twenty


def test_every_form_of_a_source_gives_the_same_frames(path: Path) -> None:
    data = path.read_bytes()
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    for source in (path, str(path), path.as_uri(), data, url):
        assert numbers(sample_video(Video(source), choose(3, 20))) == [3, 20]


@pytest.fixture
def served(path: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(path.read_bytes())

        def log_message(self, *given: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/film.mp4", asked
    server.shutdown()
    server.server_close()


def test_a_talk_fetches_and_decodes_a_video_once(model: VLModel, served: tuple[str, list[str]]) -> None:
    url, asked = served
    session = model.session()
    session.send("<video>What?", settings=GenerateConfig(max_new_tokens=1), videos=[url])
    session.send("And?", settings=GenerateConfig(max_new_tokens=1))
    assert len(asked) == 1
    (kept,) = session.messages[0].media
    assert numbers(kept) == ANSWERING
    assert write_message(session.messages[0])["content"][0] == {"type": "video", "video": url}


@pytest.mark.parametrize(("kind", "settings"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_animations_are_videos(kind: str, settings: dict[str, Any]) -> None:
    found = Video(animation(kind, **settings))
    info = describe_video(found)
    assert (info.frames, info.fps, info.size) == (FRAMES, 10.0, SIZE)
    assert numbers(sample_video(found, choose(29, 0, 7, 7))) == [29, 0, 7, 7]
    assert "it cannot be decoded" in refuse(animation(kind, **settings)[:-40]).why


def test_a_still_picture_is_no_video() -> None:
    assert refuse((DATA / "images" / "cat.png").read_bytes()).why == "it is a still picture"


def test_the_frames_of_a_folder_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        draw(number).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("none")
    assert describe_video(Video(tmp_path)).frames == 3
    assert numbers(sample_video(Video(tmp_path), choose(0, 1, 2, 2))) == [2, 9, 10, 10]
    (tmp_path / "empty").mkdir()
    assert "the folder holds no .png" in refuse(tmp_path / "empty").why


def damage(data: bytes) -> Iterator[bytes]:
    """A file cut off at many places, with bits turned, with a number made huge, and with bytes put in."""
    for at in range(0, len(data), max(1, len(data) // 16)):
        yield data[:at]
        yield data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]
        yield data[:at] + b"\xff" * 8 + data[at + 8 :]
        yield data[:at] + b"between" + data[at:]
    for at in range(0, min(len(data), 1000), 12):
        yield data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :]


@pytest.mark.parametrize(
    "make",
    [
        partial(film, "mp4", "mpeg4"), partial(film, "mp4", "libx264", gop=250), partial(film, "matroska", "libx264"),
        partial(film, "webm", "libvpx"), partial(film, "webm", "libvpx-vp9"), partial(film, "avi", "mpeg4"),
        partial(film, "mpegts", "libx264"), partial(film, "h264", "libx264"), partial(film, "flv", "flv1"),
        partial(film, "mpeg", "mpeg2video"), partial(animation, "GIF"), partial(animation, "WEBP"),
        partial(animation, "PNG"),
    ],
)  # fmt: skip
def test_a_damaged_film_gives_its_frames_or_is_an_error(
    make: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, "SECONDS", 20.0)
    refused = 0
    for data in damage(make()):
        try:
            assert len(sample_video(Video(data), lambda count, fps: (0, count // 2, count - 1)).frames) == 3
        except MediaError as error:
            refused += 1
            assert "reading it takes" not in error.why and str(error).isprintable()
    assert refused


def test_the_time_is_that_of_all_passes_over_a_film_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(video_module, "monotonic", lambda: next(clock))
    assert numbers(sample_video(Video(path), choose(0))) == [0]
    assert refuse(path).why == "reading it takes more than 60 seconds"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "mpeg4"), ("avi", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9")]
)
def test_a_film_that_is_cut_off_is_an_error(kind: str, codec: str, part: float) -> None:
    data = film(kind, codec)
    refuse(data[: int(len(data) * part)])


def test_a_film_whose_index_names_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_image(draw(number))))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert describe_video(Video(data)).frames == FRAMES
    assert "it ends after" in refuse(data[: len(data) * 8 // 10]).why


def test_an_animation_too_large_to_count_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "MAX_ANIMATION_BYTES", 100)
    assert refuse(animation("GIF")).why == "it exceeds 100 bytes"


def test_an_animation_that_claims_billions_of_frames_is_an_error() -> None:
    data = bytearray(animation("PNG"))
    at = data.index(b"acTL")
    data[at + 4 : at + 8] = b"\x7f\xff\xff\xff"
    data[at + 12 : at + 16] = zlib.crc32(data[at : at + 12]).to_bytes(4, "big")
    assert "it has more than 1000000 frames" in refuse(bytes(data)).why


@pytest.mark.parametrize("data", [b"Hello\n" * 500, b"", bytes(10_000), b"#EXTM3U\n#EXTINF:3,\nfile:///film.ts\n"])
def test_what_is_no_video_is_an_error(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "renamed.mp4").write_bytes(data)
    error = refuse(tmp_path / "renamed.mp4")
    assert error.given.startswith("video ") and error.given.endswith("renamed.mp4")
    assert "it cannot be decoded" in error.why


def test_a_path_that_leads_nowhere_is_an_error() -> None:
    assert str(refuse("no/such.mp4")) == "video no/such.mp4: it is no file and no folder; check the path"


def test_sound_alone_is_no_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert refuse(file.getvalue()).why == "there is no film in it"


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("MAX_BYTES", 100, "it exceeds 100 bytes"), ("MAX_FRAMES", 29, "more than 29 frames"),
        ("MAX_PIXELS", 64 * 48 - 1, "64x48 exceeds"), ("MAX_TAKEN_PIXELS", 64 * 48 * 29, "30 frames of 64x48 exceed"),
        ("SECONDS", -1.0, "reading it takes more than"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [film, partial(animation, "GIF")])
def test_limits_hold(
    make: Callable[[], bytes], limit: str, value: float, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_module, limit, value)
    assert why in refuse(make()).why


def test_a_film_of_a_camera_held_upright_is_turned() -> None:
    data = bytearray(film())
    # The matrix of a quarter turn clockwise, in the header of the track.
    matrix = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    turn = b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = turn
    assert describe_video(Video(bytes(data))).size == (48, 64)
    (frame,) = sample_video(Video(bytes(data)), choose(4)).frames
    assert open_image(frame).size == (48, 64)


def test_without_pyav_the_error_names_the_extra(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'vlcore\[video\]'"):
        describe_video(Video(path))
    assert describe_video(Video(animation("GIF"))).frames == FRAMES


def test_an_outline_has_sizes_and_cannot_be_opened(path: Path) -> None:
    outline = outline_video(Video(path), choose(1, 2))
    assert len(outline.frames) == 2
    with pytest.raises(MediaError):
        open_image(outline.frames[0])


@pytest.mark.parametrize(("train", "expected"), [(False, ANSWERING), (True, TRAINING)])
def test_planned_and_encoded_lengths_are_equal(
    path: Path, model: VLModel, train: bool, expected: list[int]
) -> None:
    talk = [user("<video>What happens?", videos=[path]), make_message("assistant", "It moves.")]
    messages = talk if train else talk[:1]
    plan, example = model.frontend.plan(messages, train=train), model.encode(messages, train=train)
    assert len(plan) == len(example) and plan.ids == example.ids and plan.labels == example.labels
    assert plan.prompt == example.layout.prompt and "Frame8: <image>" in plan.prompt.replace("-", "")
    assert [number_of(slot.images[0]) for slot in example.layout.slots] == expected
    assert example.pixels["pixel_values"].shape[0] == 8


def test_a_training_row_with_a_video(path: Path, model: VLModel) -> None:
    rows = path.parent / "rows.jsonl"
    rows.write_text('{"query": "What happens?", "response": "It moves.", "videos": ["a film.mp4"]}\n')
    (row,) = read_rows(str(rows))
    example = model.encode(row.messages, train=True)
    assert [number_of(slot.images[0]) for slot in example.layout.slots] == TRAINING
    assert model.compute_logits(example, train=True)[1] is not None


def test_the_number_of_frames_is_an_option(path: Path, model: VLModel) -> None:
    messages = [user("What?", videos=[path])]
    assert len(model.encode(messages, num_segments=3).layout.slots) == 3
    assert len(model.frontend.plan(messages, num_segments="16").slots) == 16
    with pytest.raises(UsageError, match="the smallest num_segments is 1"):
        model.encode(messages, num_segments=0)


def test_two_questions_about_videos_in_one_batch(path: Path, model: VLModel) -> None:
    asked = [[user("<video>What?", videos=[path])], [user("Hi")]]
    replies = model.answer(asked, GenerateConfig(max_new_tokens=2))
    assert [reply.usage.image_tokens > 0 for reply in replies] == [True, False]


@pytest.fixture
def pictures_only(monkeypatch: pytest.MonkeyPatch) -> Frontend:
    class Processor:
        image_token_id = 1

    frontend = build_frontend(resolve_model(LoadConfig(model=str(MODEL))))
    monkeypatch.setitem(frontend.__dict__, "media", Processor())
    return frontend


@pytest.mark.parametrize("way", ["plan", "encode", "fetch", "write_segments"])
def test_a_family_without_video_refuses_before_it_opens_one(pictures_only: Frontend, way: str) -> None:
    with pytest.raises(UsageError, match=r"video no/such\.mp4: this model takes images only"):
        getattr(pictures_only, way)([user("What?", videos=["no/such.mp4"])])


def test_a_template_does_not_drop_a_video_without_frames(model: VLModel) -> None:
    template = model.frontend.template
    with pytest.raises(UsageError, match="a video without frames"):
        template.write_segments([user("What?", videos=["a.mp4"])], model.frontend.resolve_options())


def test_a_talk_asks_for_a_video_and_takes_it_again_after_an_error(path: Path, model: VLModel) -> None:
    lines = iter(["<video>What?", "/no/such.mp4", "<video>What?", str(path), "And?"])
    prompts: list[str] = []
    shown: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    session = model.session()
    Talk(session, Terminal(read, shown.append), "tag", GenerateConfig(max_new_tokens=2)).run()
    ask = "Input a video path or URL <<< "
    assert prompts == ["<<< ", ask, "<<< ", ask, "<<< ", "<<< "]
    errors = [text for text in shown if text.startswith("[ERROR]")]
    assert errors == ["[ERROR] video /no/such.mp4: it is no file and no folder; check the path\n"]
    assert [len(message.media) for message in session.messages] == [1, 0, 0, 0]
    assert numbers(session.messages[0].media[0]) == ANSWERING


def test_errors_of_a_family_stay_its_own(path: Path) -> None:
    def fail(count: int, fps: float) -> tuple[int, ...]:
        raise UsageError("a", "b", "c")

    with pytest.raises(VlcoreError) as caught:
        sample_video(Video(path), fail)
    assert isinstance(caught.value, UsageError)
    with pytest.raises(MediaError, match="no frame of it is taken"):
        sample_video(Video(path), choose())
