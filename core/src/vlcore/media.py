"""Media: a path, URL, data URL, bytes or PIL image becomes an RGB picture, within limits.

Sizes are read from headers, so lengths are known before anything is decoded.
"""

from __future__ import annotations

import base64
import http.client
import io
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vlcore.errors import MediaError, show
from vlcore.messages import Image, Message, Part, Video

if TYPE_CHECKING:
    import torch
    from PIL import Image as PilImage

    from vlcore.batch import Layout
    from vlcore.template import EncodeOptions

#: (width, height) in pixels.
Size = tuple[int, int]
#: Encoded images above this many bytes are refused.
MAX_BYTES = 200 * 1024 * 1024
#: Images above this many pixels are refused before they are decoded.
MAX_PIXELS = 180_000_000
#: Seconds a download may stall.
TIMEOUT = 20.0


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a prompt that takes pixels: its images, their sizes, and whether they are video frames."""

    images: tuple[Image, ...]
    sizes: tuple[Size, ...]
    frame: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a slot will take.

    Attributes:
        tokens: positions in the prompt.
        tiles: model inputs each of its images becomes.
        detail: whatever the family's processor needs again when it loads the pixels.
        ids: the ids at these positions, where they are more than the image token's alone (rows, begin and end marks).
        around: texts before and behind it that are made of its size, tokenized with the texts beside them.
    """

    tokens: int
    tiles: tuple[int, ...]
    detail: Any = None
    ids: tuple[int, ...] | None = None
    around: tuple[str, str] = ("", "")


class MediaProcessor(Protocol):
    """What a family's media processor offers."""

    @property
    def image_token_id(self) -> int:
        """The id at image positions."""

    def plan(self, slots: Sequence[Slot], options: EncodeOptions) -> tuple[Plan, ...]:
        """A plan for each slot of a conversation, from sizes alone."""

    def load(self, images: Sequence[PilImage.Image], plan: Plan) -> Mapping[str, torch.Tensor]:
        """The pixels of one slot by the name of the model's argument; the first axis runs over tiles.

        Floats as the model takes them, or the bytes (uint8) that a `PixelNormaliser` makes into them.
        """


@runtime_checkable
class VideoProcessor(Protocol):
    """What the media processor of a family that takes videos offers besides."""

    def choose_frames(self, count: int, fps: float, options: EncodeOptions) -> tuple[int, ...]:
        """Which frames of a video are taken, of how many, at how many a second; one may be taken twice."""


@runtime_checkable
class PixelNormaliser(Protocol):
    """What a media processor that loads bytes offers besides.

    Pixels stay bytes until they are where the model is: a quarter of the memory, and of what processes and
    devices hand each other.
    """

    def normalise(self, pixels: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Bytes as `load` gives them to float32, wherever they are, with the bits that the release computes."""


@runtime_checkable
class JoiningProcessor(Protocol):
    """What a media processor offers besides whose pixels are not simply put one behind the other."""

    @property
    def ragged(self) -> bool:
        """Whether shorter axes of tensors are filled with zeros at their ends, where several stand in a batch."""

    def count(self, plans: Sequence[Plan]) -> Mapping[str, torch.Tensor]:
        """Tensors that tell something of all slots of a conversation that are fed, at least one; often none."""


@runtime_checkable
class TracingProcessor(Protocol):
    """What the media processor of a model offers besides that takes more of each position than its id."""

    def trace(self, layout: Layout) -> Mapping[str, torch.Tensor]:
        """Tensors by the name of the model's argument whose last axis runs over the positions of a conversation."""


@runtime_checkable
class ShrinkingProcessor(Protocol):
    """What the media processor of a family whose media can take fewer tokens offers besides."""

    def list_smaller(
        self, media: Sequence[Image | Video], options: EncodeOptions
    ) -> Iterator[Mapping[str, Any]]:
        """Family options under which media take ever fewer tokens, one step after the other.

        Args:
            media: those of a conversation.
            options: the options that the steps start from.
        """


def normalise(media: MediaProcessor, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model is fed: a batch with its bytes made into the floats that the release computes.

    Args:
        media: the processor that loaded the pixels.
        tensors: a batch or its pixels alone, on any device; all but bytes stays as it is.
    """
    import torch

    pixels = {name: tensor for name, tensor in tensors.items() if tensor.dtype is torch.uint8}
    return {**tensors, **media.normalise(pixels)} if pixels and isinstance(media, PixelNormaliser) else dict(tensors)


def open_image(image: Image) -> PilImage.Image:
    """The picture in RGB, 8 bits a channel.

    Palettes, grey and transparency go through PIL's plain conversion and EXIF rotation is not applied, as in
    the releases.

    Raises:
        MediaError: when it cannot be found, read or decoded, or exceeds a limit.
    """
    try:
        with _open(image) as picture:
            picture.load()
            # A picture in memory may be drawn on later; what was just decoded is nobody else's.
            return picture if picture.mode == "RGB" and picture is not image.source else picture.convert("RGB")
    except MediaError:
        raise
    except Exception as error:
        # Damaged bytes make Pillow raise OSError, SyntaxError, struct.error, IndexError and others.
        raise _damaged(image, error) from error


def read_size(image: Image) -> Size:
    """(width, height) of a picture, from its header alone.

    Raises:
        MediaError: as `open_image`, except for damage behind the header.
    """
    with _open(image) as picture:
        return picture.size


def fetch_media(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages with what lies behind URLs fetched once, so that later stages read from memory.

    Raises:
        MediaError: when a URL cannot be fetched.
    """
    return tuple(replace(m, content=tuple(map(_fetch_part, m.content))) for m in messages)


def _fetch_part(part: Part) -> Part:
    if isinstance(part, Video):
        return replace(part, frames=tuple(_fetch_image(frame) for frame in part.frames))
    return _fetch_image(part) if isinstance(part, Image) else part


def _fetch_image(image: Image) -> Image:
    is_url = isinstance(image.source, str) and image.source.startswith(("http://", "https://"))
    return Image(download(str(image.source))) if is_url else image


def describe(medium: Image | Video) -> str:
    """A short name of a medium for messages: its path, its URL, or what it is."""
    source, kind = medium.source, "video" if isinstance(medium, Video) else "image"
    if isinstance(source, str | Path):
        text = str(source)
        return f"{kind} {text[:60]}..." if text.startswith("data:") and len(text) > 60 else f"{kind} {show(text)}"
    return f"{kind} of {len(source)} bytes" if isinstance(source, bytes) else kind


@contextmanager
def _open(image: Image) -> Iterator[PilImage.Image]:
    """The picture with its header read; a file is closed behind it, a PIL image stays as it is."""
    from PIL import Image as PilImage

    if isinstance(image.source, PilImage.Image):
        yield _check_pixels(image.source, image)
        return
    with _read_header(image) as picture:
        yield _check_pixels(picture, image)


def _read_header(image: Image) -> PilImage.Image:
    from PIL import Image as PilImage
    from PIL import UnidentifiedImageError

    try:
        place = locate(image, MAX_BYTES)
        if isinstance(place, Path) and place.exists() and not place.is_file():
            raise MediaError(describe(image), "it is no file", "give the path of an image file")
        return PilImage.open(place)
    except UnidentifiedImageError as error:
        why = "it is no image that Pillow can read"
        raise MediaError(describe(image), why, "give PNG, JPEG or WebP") from error
    except PilImage.DecompressionBombError as error:
        raise MediaError(describe(image), str(error), "make it smaller") from error
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) or not error.strerror:
            raise _damaged(image, error) from error
        raise MediaError(describe(image), f"it cannot be read ({error.strerror})", "check the path") from error


def _damaged(image: Image, error: Exception) -> MediaError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return MediaError(describe(image), f"it cannot be decoded ({reason})", "give a whole image file")


def _check_pixels(picture: PilImage.Image, image: Image) -> PilImage.Image:
    if not picture.width * picture.height:
        raise MediaError(describe(image), "it has no pixels", "give a whole image file")
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width}x{picture.height}"
        raise MediaError(describe(image), f"{size} exceeds {MAX_PIXELS} pixels", "make it smaller")
    return picture


def locate(medium: Image | Video, limit: int) -> Path | io.BytesIO:
    """Where a medium is read from: a path as it is, everything else as bytes in memory.

    Raises:
        MediaError: for a URL that cannot be fetched, a damaged data URL, or more bytes than the limit.
    """
    source = medium.source
    text = source if isinstance(source, bytes) else str(source)
    if isinstance(text, str) and not text.startswith(("data:", "http://", "https://")):
        path = Path(_strip_scheme(text))
        _check_bytes(path.stat().st_size if path.is_file() else 0, limit, medium)
        return path
    if isinstance(text, str):
        text = _decode_data_url(text, medium) if text.startswith("data:") else download(text, limit)
    _check_bytes(len(text), limit, medium)
    return io.BytesIO(text)


def _strip_scheme(text: str) -> str:
    return urllib.request.url2pathname(urllib.parse.urlsplit(text).path) if text.startswith("file:") else text


def _check_bytes(count: int, limit: int, medium: Image | Video) -> None:
    if count > limit:
        raise MediaError(describe(medium), f"it exceeds {limit} bytes", "make it smaller")


def _decode_data_url(text: str, medium: Image | Video) -> bytes:
    head, _, body = text.partition(",")
    if not head.endswith(";base64"):
        raise MediaError(describe(medium), "it is a data URL without ;base64", "encode it in base64")
    try:
        return base64.b64decode(body, validate=True)
    except ValueError as error:
        raise MediaError(describe(medium), f"its base64 is damaged ({error})", "encode it again") from error


def download(url: str, limit: int = MAX_BYTES) -> bytes:
    """The bytes behind an http or https URL.

    Raises:
        MediaError: when it cannot be fetched, stalls for more than 20 seconds, or exceeds the limit.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "vlcore"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            data: bytes = answer.read(limit + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", error)
        do = "check the address and the network"
        raise MediaError(f"URL {show(url)}", f"it cannot be fetched ({reason})", do) from error
    if len(data) > limit:
        raise MediaError(f"URL {show(url)}", f"it exceeds {limit} bytes", "make it smaller")
    return data
