"""The pictures of a request: fetched, decoded from data URLs or read below allowed folders, and looked at first."""

from __future__ import annotations

import asyncio
import io
import os
import stat
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from vlcore.errors import MediaError, show
from vlcore.fetch import FetchLimits, Resolve, fetch, resolve_name
from vlcore.media import locate
from vlcore.messages import Image, Message, Part, Text
from vlcore.serve.faults import RequestError
from vlcore.serve.protocol import ImagePart, Turn

#: Formats that Pillow reads in code of its own or of well-kept libraries.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What pictures may be: how many, how large, and from which folders (resolved)."""

    count: int
    pixels: int
    fetch: FetchLimits
    folders: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Turns a request's messages into vlcore's, every picture as bytes that were looked at.

    Attributes:
        limits: what pictures may be.
        pool: where files are read and headers are looked at, off the event loop.
        resolve: finds the addresses of a host.
    """

    limits: PictureLimits
    pool: Executor
    resolve: Resolve = resolve_name

    async def read_messages(self, turns: Sequence[Turn]) -> tuple[Message, ...]:
        """The messages of a request.

        Raises:
            RequestError: for too many pictures.
            MediaError: for a picture that cannot be had or exceeds a limit.
        """
        count = sum(isinstance(part, ImagePart) for turn in turns for part in turn.parts)
        if count > self.limits.count:
            raise RequestError(f"{count} pictures", f"a request may have {self.limits.count}", "send fewer",
                               param="messages")
        return tuple([await self._read_turn(turn) for turn in turns])

    async def _read_turn(self, turn: Turn) -> Message:
        parts: list[Part] = []
        for part in turn.parts:
            parts.append(Image(await self.read_picture(part.image_url.url)) if isinstance(part, ImagePart)
                         else Text(part.text))
        return Message("system" if turn.role == "developer" else turn.role, tuple(parts))

    async def read_picture(self, url: str) -> bytes:
        """The bytes of a picture whose header is one of a picture within the limits.

        Raises:
            MediaError: when it cannot be had, is none, or exceeds a limit.
        """
        loop = asyncio.get_running_loop()
        if url.lower().startswith(("http://", "https://")):
            data = await fetch(url, self.limits.fetch, self.resolve)
        else:
            data = await loop.run_in_executor(self.pool, read_inside, url, self.limits)
        await loop.run_in_executor(self.pool, check_picture, data, url, self.limits.pixels)
        return data


def read_inside(url: str, limits: PictureLimits) -> bytes:
    """The bytes of a data URL, or of a file below one of the allowed folders.

    Raises:
        MediaError: when it is damaged, not below a folder, or too large.
    """
    if url.startswith("data:"):
        place = locate(Image(url), limits.fetch.size)
        return place.getvalue() if isinstance(place, io.BytesIO) else b""
    path = find_path(url, limits.folders)
    try:
        # The path is resolved: a link at its end has come there since.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(handle, "rb") as file:  # noqa: PTH123
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise MediaError(f"image {show(url)}", "it is no file", "give the path of an image file")
            data = file.read(limits.fetch.size + 1)
    except OSError as error:
        raise MediaError(f"image {show(url)}", f"it cannot be read ({error.strerror})", "check the path") from error
    if len(data) > limits.fetch.size:
        raise MediaError(f"image {show(url)}", f"it exceeds {limits.fetch.size} bytes", "make it smaller")
    return data


def find_path(url: str, folders: Sequence[Path]) -> Path:
    """The path that a file: URL or a text means, links followed; it need not be there.

    Raises:
        MediaError: when it is not below one of the folders.
    """
    parts = urllib.parse.urlsplit(url) if url.lower().startswith("file:") else None
    text = url if parts is None else urllib.request.url2pathname(parts.path)
    try:
        path = Path(text).resolve()
    except (OSError, ValueError, RuntimeError):  # a sign 0, links in a circle
        path = None
    if path is None or (parts and parts.netloc) or not any(path.is_relative_to(folder) for folder in folders):
        raise MediaError(f"image {show(url)}", "this server does not read such files",
                         "send an http, https or data URL, or start it with --allowed_media_dir")
    return path


def check_picture(data: bytes, url: str, pixels: int) -> None:
    """Looks at the header of a picture; what the sender calls it does not count.

    Raises:
        MediaError: when it is none of `FORMATS`, moves, or has too many pixels.
    """
    from PIL import Image as PilImage

    name = f"image {url[:40]}..." if url.startswith("data:") and len(url) > 40 else f"image {show(url)}"
    try:
        with PilImage.open(io.BytesIO(data), formats=FORMATS) as picture:
            # MPO is what Pillow calls a JPEG with a second picture in it, as some cameras make them.
            size, moves = picture.size, picture.format != "MPO" and getattr(picture, "is_animated", False)
    except PilImage.DecompressionBombError as error:
        raise MediaError(name, f"it exceeds {pixels} pixels", "make it smaller") from error
    except Exception as error:
        # Damaged bytes make Pillow raise OSError, SyntaxError, struct.error, IndexError and others.
        raise MediaError(name, "it is no PNG, JPEG, WebP, GIF or BMP picture", "send one of them") from error
    if size[0] * size[1] > pixels:
        raise MediaError(name, f"{size[0]}x{size[1]} exceeds {pixels} pixels", "make it smaller")
    if moves:
        raise MediaError(name, "it is an animation", "send its frames as pictures")
