"""Videos: a file, an animation or a folder of frames becomes the frames that a family chooses, within limits."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vlcore.errors import ExtraMissing, MediaError, VlcoreError
from vlcore.media import MAX_PIXELS, Size, describe, locate, read_size
from vlcore.messages import Image, Video

if TYPE_CHECKING:
    from PIL import Image as PilImage

#: Files above this many bytes are refused.
MAX_BYTES = 1024**3
#: Animations above this many bytes are refused: Pillow counts frames without a pause in which time could be looked at.
MAX_ANIMATION_BYTES = 200 * 1024**2
#: Videos of more frames are refused.
MAX_FRAMES = 1_000_000
#: The frames taken of one video may have this many pixels together.
MAX_TAKEN_PIXELS = 2_000_000_000
#: Seconds that reading a video may take, once it is there.
SECONDS = 60.0
#: FFmpeg's containers that are opened; playlists and their like, which lead to other files, are not among them.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,h264,hevc,m4v,mpegvideo,ivf"
#: Pillow's formats that move.
ANIMATIONS = ("GIF", "WEBP", "PNG")
#: Endings of the frames in a folder.
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video is: its number of frames, frames a second (1 for a folder), and (width, height) in pixels."""

    frames: int
    fps: float
    size: Size


#: Tells from a video's number of frames and its frames a second which of them are taken.
ChooseFrames = Callable[[int, float], tuple[int, ...]]


def describe_video(video: Video) -> VideoInfo:
    """Frames, frames a second and size; packets are counted and at most one frame of a film is decoded.

    Raises:
        MediaError: when it cannot be found or read, is cut off, or exceeds a limit.
        ExtraMissing: when PyAV is needed and not installed.
    """
    with _open(video) as reader:
        return reader.info


def sample_video(video: Video, choose: ChooseFrames) -> Video:
    """The video with the frames that `choose` names, in its order; one named twice is there twice.

    Raises:
        MediaError: as `describe_video`, and for frames that cannot be decoded.
    """
    with _open(video) as reader:
        chosen = _choose(video, reader.info, choose)
        taken = reader.take(set(chosen))
    return replace(video, frames=tuple(taken[index] for index in chosen))


def outline_video(video: Video, choose: ChooseFrames) -> Video:
    """The video with frames that have a size and nothing else, for lengths: they cannot be opened."""
    info = describe_video(video)
    header = Image(b"P6 %d %d 255\n" % info.size)
    return replace(video, frames=(header,) * len(_choose(video, info, choose)))


def _choose(video: Video, info: VideoInfo, choose: ChooseFrames) -> tuple[int, ...]:
    chosen = choose(info.frames, info.fps)
    if not chosen:
        raise MediaError(describe(video), "no frame of it is taken", "take at least one")
    if len(set(chosen)) * info.size[0] * info.size[1] > MAX_TAKEN_PIXELS:
        size = f"{len(set(chosen))} frames of {info.size[0]}x{info.size[1]}"
        raise MediaError(describe(video), f"{size} exceed {MAX_TAKEN_PIXELS} pixels", "take fewer, or make it smaller")
    return chosen


class _Reader(Protocol):
    @property
    def info(self) -> VideoInfo: ...

    def take(self, indices: Collection[int]) -> dict[int, Image]: ...


@contextmanager
def _open(video: Video) -> Iterator[_Reader]:
    """What reads a video; all that goes wrong inside becomes a `MediaError`."""
    from PIL import Image as PilImage
    from PIL import UnidentifiedImageError

    try:
        place = locate(video, MAX_BYTES)
        end = monotonic() + SECONDS
        if isinstance(place, Path) and place.is_dir():
            yield _Folder(video, place)
            return
        if isinstance(place, Path) and not place.is_file():
            raise MediaError(describe(video), "it is no file and no folder", "check the path")
        with place.open("rb") if isinstance(place, Path) else place as file:
            try:
                picture = PilImage.open(file, formats=ANIMATIONS)
            except UnidentifiedImageError:
                yield _Film(video, file, end)
            else:
                _check_bytes(video, file)
                yield _Animation(video, picture, end)
    except VlcoreError:
        raise
    except Exception as error:
        # Damaged bytes make Pillow and FFmpeg raise OSError, ValueError, EOFError, struct.error and others.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise MediaError(describe(video), f"it cannot be decoded ({reason})", "give a whole video file") from error


def _watch(items: Iterable[_Item], video: Video, end: float) -> Iterator[_Item]:
    """The items, as long as there is time."""
    for item in items:
        if monotonic() > end:
            raise MediaError(describe(video), f"reading it takes more than {SECONDS:.0f} seconds", "cut it shorter")
        yield item


def _check_size(video: Video, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise MediaError(describe(video), f"{width}x{height} exceeds {MAX_PIXELS} pixels", "make it smaller")


def _check_bytes(video: Video, file: io.BufferedIOBase) -> None:
    at = file.tell()
    count = file.seek(0, io.SEEK_END)
    file.seek(at)
    if count > MAX_ANIMATION_BYTES:
        raise MediaError(describe(video), f"it exceeds {MAX_ANIMATION_BYTES} bytes", "give it as a film")


def _check_count(video: Video, count: int) -> None:
    if count > MAX_FRAMES:
        raise MediaError(describe(video), f"it has more than {MAX_FRAMES} frames", "cut it shorter")


@dataclass(frozen=True)
class _Folder:
    """A folder whose picture files are the frames, by their names; numbers in names count as numbers."""

    video: Video
    path: Path

    @cached_property
    def files(self) -> list[Path]:
        files = [path for path in self.path.iterdir() if path.suffix.lower() in PICTURES]
        if not files:
            raise MediaError(describe(self.video), f"the folder holds no {' '.join(PICTURES)}", "check the path")
        _check_count(self.video, len(files))
        # Cut at its numbers, a name has text at even places and digits at odd ones.
        return sorted(files, key=lambda path: [
            (int(part), part) if odd % 2 else (0, part) for odd, part in enumerate(re.split(r"(\d+)", path.name))
        ])

    @property
    def info(self) -> VideoInfo:
        return VideoInfo(len(self.files), 1.0, read_size(Image(self.files[0])))

    def take(self, indices: Collection[int]) -> dict[int, Image]:
        return {index: Image(self.files[index]) for index in indices}


@dataclass(frozen=True)
class _Animation:
    """A picture that moves, read by Pillow until the time is `end`."""

    video: Video
    picture: PilImage.Image
    end: float

    @cached_property
    def info(self) -> VideoInfo:
        _check_size(self.video, *self.picture.size)
        count = getattr(self.picture, "n_frames", 1)
        if count < 2:
            raise MediaError(describe(self.video), "it is a still picture", "give it as an image")
        _check_count(self.video, count)
        self.take({count - 1})  # a file that is cut off shows it here
        return VideoInfo(count, 1000 / (self.picture.info.get("duration") or 100), self.picture.size)

    def take(self, indices: Collection[int]) -> dict[int, Image]:
        taken = {}
        for index in _watch(range(max(indices) + 1), self.video, self.end):
            self.picture.seek(index)
            if index in indices:
                taken[index] = Image(self.picture.convert("RGB"))
        return taken


@dataclass(frozen=True, slots=True)
class _Times:
    """When the frames of a film are shown, in order, and when its key frames are; empty when it does not say."""

    count: int
    shown: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Film:
    """A film, read by FFmpeg through PyAV until the time is `end`."""

    video: Video
    file: io.BufferedIOBase
    end: float

    @cached_property
    def info(self) -> VideoInfo:
        with self._stream() as (_, stream):
            rate = float(stream.average_rate or stream.guessed_rate or 1)
        return VideoInfo(self.times.count, rate, read_size(self.take({0})[0]))

    @cached_property
    def times(self) -> _Times:
        """The times of all frames, from the packets alone; a film that ends before its header says is cut off."""
        kept, end = [], 0.0
        with self._stream() as (container, stream):
            for packet in _watch(container.demux(), self.video, self.end):
                if packet.size and packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.size and packet.stream.index == stream.index and not packet.is_discard:
                    kept.append((packet.pts, packet.is_keyframe))
                    _check_count(self.video, len(kept))
            self._check_whole(container, end)
            self._check_seen(len(kept), stream.frames)
        if any(time is None for time, _ in kept):
            return _Times(len(kept))
        return _Times(len(kept), sorted(time for time, _ in kept), sorted(time for time, key in kept if key))

    def take(self, indices: Collection[int]) -> dict[int, Image]:
        taken = self._take_near(indices)
        if len(taken) < len(indices):
            taken = self._take_in_order(indices)
        lost = sorted(set(indices) - set(taken))
        if lost:
            why = f"frame {lost[0]} of its {self.times.count} cannot be decoded"
            raise MediaError(describe(self.video), why, "give a whole video file")
        return taken

    def _take_near(self, indices: Collection[int]) -> dict[int, Image]:
        """The frames, each decoded from the key frame before it; some are missing where a film cannot do that."""
        import av

        shown, keys = self.times.shown, self.times.keys
        groups = defaultdict(list)
        for index in sorted(indices if shown else ()):
            before = bisect_right(keys, shown[index])
            if before:
                groups[keys[before - 1]].append(index)
        taken: dict[int, Image] = {}
        try:
            with self._stream() as (container, stream):
                for key, group in groups.items():
                    container.seek(key, stream=stream)
                    taken |= self._take_group(self._decode(container, stream), key, group)
        except av.FFmpegError:
            return {}
        return taken

    def _take_group(self, frames: Iterable[Any], key: int, group: list[int]) -> dict[int, Image]:
        taken: dict[int, Image] = {}
        waiting = list(group)
        for number, frame in enumerate(frames):
            if frame.pts is None or (number == 0 and frame.pts > key):
                return {}  # the film did not go where it was asked to
            # A frame that is never shown has a time as well: the next one stands for it.
            while waiting and frame.pts >= self.times.shown[waiting[0]] and not frame.is_corrupt:
                taken[waiting.pop(0)] = self._picture(frame)
            if not waiting:
                break
        return taken

    def _take_in_order(self, indices: Collection[int]) -> dict[int, Image]:
        """The frames, with all others before the last of them decoded as well."""
        taken: dict[int, Image] = {}
        with self._stream() as (container, stream):
            for index, frame in enumerate(self._decode(container, stream)):
                if index in indices and not frame.is_corrupt:
                    taken[index] = self._picture(frame)
                if index >= max(indices):
                    break
        return taken

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        """The frames from here on. Damage may make long runs of packets give none, so time is looked at each packet."""
        for packet in _watch(container.demux(stream), self.video, self.end):
            yield from packet.decode()

    def _picture(self, frame: Any) -> Image:
        """A frame as it is to be seen: a camera that was held upright says so beside the pixels."""
        _check_size(self.video, frame.width, frame.height)
        picture = frame.to_image()
        return Image(picture.rotate(frame.rotation, expand=True) if frame.rotation else picture)

    def _check_seen(self, count: int, promised: int) -> None:
        # Headers may count frames that are never shown, so a few less are no damage.
        if not count or count < 0.95 * promised:
            why = f"it has {count} frames" + (f" of {promised} that its header names" if promised else "")
            raise MediaError(describe(self.video), why, "give a whole video file")

    def _check_whole(self, container: Any, end: float) -> None:
        start, length = (container.start_time or 0) / 1e6, (container.duration or 0) / 1e6
        if end - start < 0.98 * length - 0.25:
            why = f"it ends after {end - start:.1f} of {length:.1f} seconds"
            raise MediaError(describe(self.video), why, "give a whole video file")

    @contextmanager
    def _stream(self) -> Iterator[tuple[Any, Any]]:
        """The container, opened at its beginning, and the stream that is the film."""
        try:
            import av
        except ImportError as error:
            raise ExtraMissing(describe(self.video), "PyAV", "video") from error
        self.file.seek(0)
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
        with av.open(self.file, options=options) as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise MediaError(describe(self.video), "there is no film in it", "give a whole video file")
            _check_size(self.video, streams[0].codec_context.width, streams[0].codec_context.height)
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
