"""Messages: what a conversation is made of, before any template, tokenizer or pixel.

All values are frozen. A string becomes a list of parts at once, so later code sees one form only.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vlcore.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image as PilImage

#: An image written inside a text.
INLINE = re.compile(r"<img>(.*?)</img>", re.DOTALL)
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text as somebody typed it; no special token in it is ever special."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: path, URL, data URL, bytes or an open PIL image. It is opened by `vlcore.media`, not here."""

    source: str | Path | bytes | PilImage.Image


@dataclass(frozen=True, slots=True)
class Video:
    """A video: where it is, or its frames when they have been sampled (or were given as pictures).

    `vlcore.video` opens the source: a path, a folder of frames, URL, data URL or bytes.
    """

    source: str | Path | bytes | None = None
    frames: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        if self.source is None and not self.frames:
            raise UsageError("a video", "it has neither a file nor frames", "give source= or frames=")


Part = Text | Image | Video


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `trained` tells whether an assistant's turn counts in the loss (rows may say `loss: false`)."""

    role: Role
    content: tuple[Part, ...]
    trained: bool = True

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            why = "it is not a role of a conversation"
            raise UsageError(f"role {self.role!r}", why, "use system, user or assistant")

    @property
    def text(self) -> str:
        """The texts of this turn, joined; media leave no trace."""
        return "".join(part.text for part in self.content if isinstance(part, Text))

    @property
    def media(self) -> tuple[Image | Video, ...]:
        """The media of this turn, in order."""
        return tuple(part for part in self.content if not isinstance(part, Text))


def make_message(role: Role, content: str | Part | Iterable[str | Part], trained: bool = True) -> Message:
    """A message from a text, a part, or a mixture of both in order.

    >>> make_message("user", "Hello").content
    (Text(text='Hello'),)
    """
    items = [content] if isinstance(content, str | Text | Image | Video) else content
    parts = tuple(Text(item) if isinstance(item, str) else item for item in items)
    return Message(role, parts, trained)


def user(text: str, images: Sequence[Any] = (), videos: Sequence[Any] = ()) -> Message:
    """A user's turn: media first, then the text, which may place them with `<image>` and `<video>` tags.

    Args:
        text: what the user says.
        images: pictures; one alone needs no list.
        videos: videos; one alone needs no list.

    Raises:
        UsageError: when the text is no text.
    """
    if not isinstance(text, str):
        raise UsageError(f"a question of type {type(text).__name__}", "it is no text", "give a string")
    media = [_image(item) for item in _listed(images)]
    films = [item if isinstance(item, Video) else Video(item) for item in _listed(videos)]
    return make_message("user", [*media, *films, Text(text)])


def _listed(media: Any) -> Sequence[Any]:
    return media if isinstance(media, list | tuple) else [media]


def read_inline(text: str, tag: str = "<image>") -> tuple[str, tuple[Image, ...]]:
    """A text with its `<img>PATH_OR_URL</img>` replaced by tags, and the images in order.

    >>> read_inline("Look: <img>cat.png</img>")
    ('Look: <image>', (Image(source='cat.png'),))
    """
    images = tuple(Image(source.strip()) for source in INLINE.findall(text))
    return INLINE.sub(lambda match: tag, text), images


def read_message(data: Mapping[str, Any], root: Path | None = None) -> Message:
    """A message from its plain form, `{"role": ..., "content": text or [{"type": "text" | "image" | "video", ...}]}`.

    Args:
        data: the plain form; an image is `{"type": "image", "image": source}`, a video
            `{"type": "video", "video": source}` or `{"type": "video", "frames": [source, ...]}`.
        root: folder that relative paths start from.

    Raises:
        UsageError: for a part of an unknown type.
    """
    content = data["content"]
    items = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return Message(data["role"], tuple(_read_part(item, root) for item in items), data.get("loss", True))


def write_message(message: Message) -> dict[str, Any]:
    """The plain form of a message, the reverse of `read_message`; bytes become data URLs."""
    content = [_write_part(part) for part in message.content]
    plain: dict[str, Any] = {"role": message.role, "content": content}
    return plain if message.trained else {**plain, "loss": False}


def _image(source: Any) -> Image:
    return source if isinstance(source, Image) else Image(source)


def _rooted(source: Any, root: Path | None) -> Any:
    if root is None or not isinstance(source, str) or source.startswith(("http://", "https://", "data:", "file:")):
        return source
    return root / source


def _read_part(item: Mapping[str, Any], root: Path | None) -> Part:
    kind = item.get("type")
    if kind == "text":
        return Text(item["text"])
    if kind == "image":
        return Image(_rooted(item["image"], root))
    if kind == "video":
        frames = tuple(Image(_rooted(frame, root)) for frame in item.get("frames", ()))
        return Video(_rooted(item.get("video"), root), frames)
    raise UsageError(f"a content part of type {kind!r}", "parts are text, image or video", "correct the part's type")


def _write_part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image", "image": _write_source(part.source)}
    if part.source is None:
        return {"type": "video", "frames": [_write_source(frame.source) for frame in part.frames]}
    # Frames that were sampled from a source can be sampled again.
    return {"type": "video", "video": _write_source(part.source)}


def _write_source(source: Any) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return "data:;base64," + base64.b64encode(source).decode("ascii")
    raise UsageError("an open picture", "only paths, URLs and bytes can be written down", "save it to a file first")
