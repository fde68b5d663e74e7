"""Conversations as chat templates take them, with marks in the place of what somebody typed."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlcore.messages import Image, Message, Text, Video
from vlcore.template import place_tagged

#: Texts that stand for a picture or a video in what somebody typed.
TAGS = ("<image>", "<video>")
#: What a mark looks like: eight bytes that are chosen for each conversation, and a number.
MARKS = re.compile("(x[0-9a-f]{16}x[0-9]+x)")


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation as a chat template takes it.

    Attributes:
        plain: the messages, a mark in the place of each text.
        texts: the texts by their marks.
        images: the pictures in order.
        frames: whether each of them is a frame of a video.
    """

    plain: tuple[Mapping[str, Any], ...]
    texts: Mapping[str, str]
    images: tuple[Image, ...]
    frames: tuple[bool, ...]


def read_talk(messages: Sequence[Message]) -> Talk:
    """A conversation as a chat template takes it, its pictures at their tags."""
    secret = secrets.token_hex(8)
    plain: list[Mapping[str, Any]] = []
    texts: dict[str, str] = {}
    shown: list[tuple[Image, bool]] = []
    for message in messages:
        parts: list[dict[str, str]] = []
        for part in join_texts(message):
            if isinstance(part, Text):
                words = part.text.strip()
                mark = f"x{secret}x{len(texts)}x"
                if words:
                    texts[mark] = words
                before, _, behind = part.text.partition(words) if words else (part.text, "", "")
                parts.append({"type": "text", "text": f"{before}{mark if words else ''}{behind}"})
            else:
                frames = part.frames if isinstance(part, Video) else (part,)
                parts += [{"type": "image"} for _ in frames]
                shown += [(frame, isinstance(part, Video)) for frame in frames]
        plain.append({"role": message.role, "content": parts})
    return Talk(tuple(plain), texts, tuple(image for image, _ in shown), tuple(frame for _, frame in shown))


def flatten(talk: Talk) -> Talk:
    """The conversation with messages of text alone as strings, for chat templates that take no parts."""

    def flat(message: Mapping[str, Any]) -> Mapping[str, Any]:
        texts = [part.get("text") for part in message["content"]]
        return message if None in texts else {**message, "content": "".join(texts)}

    return replace(talk, plain=tuple(map(flat, talk.plain)))


def join_texts(message: Message) -> list[Text | Image | Video]:
    """The parts of a message, media at their tags, neighbouring texts as one."""
    placed = place_tagged(message, TAGS) if message.media else None
    joined: list[Text | Image | Video] = []
    for part in message.content if placed is None else placed:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        else:
            joined.append(part)
    return joined
