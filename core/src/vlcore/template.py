"""Templates: messages in, segments out. No tokenizer and no pixels here.

Prompt text, ids, labels and media positions of training, inference and serving all come from these segments,
so they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, Protocol

from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Role, Text, Video, make_message

#: What counts in the loss: the assistant's text and its end of turn, the same in every family; or what the
#: release's own training code counts.
LossOn = Literal["answers", "release"]
#: text: plain text, none of it special. special: the name of one vocabulary token. media: a slot for pixels.
SegmentKind = Literal["text", "special", "media"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt.

    Attributes:
        text: the text, the token's name, or how a medium is written in the prompt (`<image>`).
        kind: how ids come from it.
        trained: whether its tokens count in the loss.
        images: the pictures of a media slot, in order; most slots have one.
        frame: whether the pictures are frames of a video.
        shown: how it is written in the prompt's text; `text` when left out.
        answer: whether an assistant says it. Its ids are those of the text alone, trained or not, so that a
            turn has the same ids when it is generated, when it is history and when it is trained.
    """

    text: str
    kind: SegmentKind = "text"
    trained: bool = False
    images: tuple[Image, ...] = ()
    frame: bool = False
    shown: str | None = None
    answer: bool = False


#: A border between texts: what stands on its two sides is tokenized apart, as some releases do with each turn.
SEAM = Segment("", "special")


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How a conversation is encoded.

    Attributes:
        train: with the closing answer and its labels; otherwise with an open assistant's turn at the end.
        loss_on: what counts in the loss.
        family: the family's own options, complete.
    """

    train: bool = False
    loss_on: LossOn = "answers"
    family: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """When an answer ends: at one of these tokens, or as soon as its text holds one of these strings."""

    tokens: tuple[str, ...] = ()
    strings: tuple[str, ...] = ()


class Template(Protocol):
    """What a family's template offers."""

    @property
    def stop(self) -> Stop:
        """When an answer ends."""

    def write_segments(self, messages: Sequence[Message], options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a conversation, in order."""

    def clean_answer(self, text: str) -> str:
        """The answer's text as the release returns it, without what stopped it."""


def split_tokens(text: str, tokens: Iterable[str], trained: bool = False) -> tuple[Segment, ...]:
    """Text cut at the given special tokens.

    >>> [s.kind for s in split_tokens("<|im_start|>user\\n", ["<|im_start|>"])]
    ['special', 'text']
    """
    known = frozenset(tokens)
    if not known:
        return (Segment(text, trained=trained),) if text else ()
    pieces = _find_any(known).split(text)
    return tuple(Segment(p, "special" if p in known else "text", trained) for p in pieces if p)


@lru_cache
def _find_any(tokens: frozenset[str]) -> re.Pattern[str]:
    """A pattern for any of some tokens, the longest first."""
    return re.compile("(" + "|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) + ")")


def place_tagged(message: Message, tags: Sequence[str]) -> tuple[Text | Image | Video, ...] | None:
    """The parts of a message with its media moved to the tags in its text, or None when no text has a tag.

    Args:
        message: a message whose texts may hold tags.
        tags: texts that stand for one medium each; where `<video>` is one of them, it takes the videos and the
            others take the images.

    Raises:
        UsageError: when tags and media differ in number.
    """
    pattern = re.compile("(" + "|".join(map(re.escape, tags)) + ")")
    pieces = [p for part in message.content if isinstance(part, Text) for p in pattern.split(part.text) if p]
    placed = [piece for piece in pieces if piece in tags]
    if not placed:
        return None
    videos = [m for m in message.media if isinstance(m, Video) and "<video>" in tags]
    images = [m for m in message.media if m not in videos]
    if (placed.count("<video>"), len(placed)) != (len(videos), len(message.media)):
        raise UsageError(
            f"a {message.role} turn with {len(placed)} media tags ({' '.join(placed)}), "
            f"{len(images)} images and {len(videos)} videos",
            "each tag stands for one medium of its kind",
            "give as many media as tags, or leave the tags out",
        )
    waiting = {True: iter(videos), False: iter(images)}
    return tuple(next(waiting[piece == "<video>"]) if piece in tags else Text(piece) for piece in pieces)


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A template made of a table of role texts; a family overrides a method where its release has a rule.

    Attributes:
        roles: text before a message of each role.
        ends: text after a message of each role. An assistant's is trained.
        after: text after `ends` that is never trained (a newline behind the end token, say).
        specials: tokens to look for in the texts of this table.
        typed: tokens that the texts of users and assistants may hold (`<box>` and its like). All other text
            they type stays plain text.
        prefix: text before everything, once (a begin-of-text token).
        system: the system text when a conversation has none; None leaves the system turn out.
        tags: texts that stand for a medium inside a typed text.
        image: how an image is written at a tag, cut at `specials`; `<image>` in it is the slot itself.
        untagged: what follows an image or a video that is not at a tag.
        stop: when an answer ends.
    """

    roles: Mapping[Role, str]
    ends: Mapping[Role, str]
    after: str = ""
    specials: frozenset[str] = frozenset()
    typed: frozenset[str] = frozenset()
    prefix: str = ""
    system: str | None = None
    tags: tuple[str, ...] = ("<image>",)
    image: str = "<image>"
    untagged: str = "\n"
    stop: Stop = Stop()

    def write_segments(self, messages: Sequence[Message], options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a conversation, with an open assistant's turn at the end unless training."""
        check_order(messages, options.train)
        segments = list(split_tokens(self.prefix, self.specials))
        for message in self.add_system(messages):
            segments += self.write_message(message, options)
        if not options.train:
            segments += split_tokens(self.roles["assistant"], self.specials)
        return tuple(segments)

    def add_system(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages, led by the default system text when they have none."""
        if self.system is None or messages[0].role == "system":
            return tuple(messages)
        return (make_message("system", self.system), *messages)

    def write_message(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of one message: role text, content, end, and what follows the end."""
        answer = message.role == "assistant"
        trained = answer and options.train and message.trained
        head = split_tokens(self.roles[message.role], self.specials)
        said = (*self.write_content(message, options), *split_tokens(self.ends[message.role], self.specials))
        turn = [replace(segment, trained=trained, answer=answer) for segment in said]
        return (*head, *turn, *split_tokens(self.after, self.specials))

    def write_content(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a message's content: media at their tags, else where they stand."""
        placed = place_tagged(message, self.tags) if message.media else None
        tail = "" if placed is not None else self.untagged
        segments: list[Segment] = []
        for part in message.content if placed is None else placed:
            if isinstance(part, Text):
                segments += split_tokens(part.text, self.typed)
            elif isinstance(part, Image):
                segments += [*self.write_image(part), *split_tokens(tail, ())]
            else:
                segments += [*self.write_frames(part, options), *split_tokens(tail, ())]
        return tuple(segments)

    def write_image(self, image: Image, frame: bool = False) -> tuple[Segment, ...]:
        """The segments of one image: what stands around it, and its slot."""
        before, _, behind = self.image.partition("<image>")
        slot = Segment("<image>", "media", images=(image,), frame=frame)
        return (*split_tokens(before, self.specials), slot, *split_tokens(behind, self.specials))

    def write_frames(self, video: Video, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a video, which must have its frames: without them nothing of it would be seen."""
        segments = self.write_video(video, options)
        if not video.frames:
            raise UsageError("a video without frames", "a template does not open files", "sample its frames first")
        return segments

    def write_video(self, video: Video, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a video; families that take video override this."""
        raise UsageError("a video", "this model takes images only", "give its frames as images")

    def clean_answer(self, text: str) -> str:
        """The answer up to the first stop token or string, stripped."""
        for mark in (*self.stop.tokens, *self.stop.strings):
            text = text.split(mark, 1)[0]
        return text.strip()


def check_order(messages: Sequence[Message], train: bool) -> None:
    """Refuses conversations whose turns are out of order.

    Raises:
        UsageError: unless there is at most one system message, first, then user and assistant in turn, ending
            with the assistant when training and with the user otherwise.
    """
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user", "assistant"] * ((len(turns) + 1) // 2)
    last = "assistant" if train else "user"
    if not turns or turns != expected[: len(turns)] or turns[-1] != last:
        raise UsageError(
            f"a conversation of {', '.join(roles) or 'no message'}",
            f"turns alternate, begin with the user and end with the {last}",
            "put the messages in that order",
        )


def render_prompt(segments: Iterable[Segment]) -> str:
    """The prompt as text, one `<image>` (or what the family writes) a slot."""
    return "".join(segment.text if segment.shown is None else segment.shown for segment in segments)
