"""Prompts of the release: ChatML for the chat models, the bare text for the base model."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Part, Role, Text
from vlcore.resolve import Checkpoint
from vlcore.template import SEAM, ChatTemplate, EncodeOptions, Segment, Stop, check_order

from vlcore_qwen_vl.pieces import END, GROUNDING, START, STOP
from vlcore_qwen_vl.release import count_queries, is_chat, load_tokenizer, read_window

LOG = logging.getLogger(__name__)
SYSTEM = "You are a helpful assistant."
ROLES: tuple[Role, ...] = ("system", "user", "assistant")
#: How pictures may be numbered, see `number_pictures`.
NUMBERINGS = ("turn", "conversation", "none")
#: A number that somebody wrote before a picture.
NUMBERED = re.compile(r"Picture \d+:\s*$")


@dataclass(frozen=True, kw_only=True)
class PlainTemplate(ChatTemplate):
    """The base model, which goes on with a text: no roles, an end of text behind each answer.

    Attributes:
        chat: what the release's own fine-tuning makes of conversations, for `loss_on="release"`.
    """

    chat: ChatTemplate | None = None

    def write_segments(self, messages: Sequence[Message], options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a conversation, its pictures numbered."""
        if self.chat and options.train and options.loss_on == "release":
            return self.chat.write_segments(messages, options)
        check_order(messages, options.train)
        return super().write_segments(self.choose_turns(number_pictures(messages, options), options), options)

    def choose_turns(self, messages: Sequence[Message], options: EncodeOptions) -> Sequence[Message]:
        """The messages that are taken: all of them."""
        return messages

    def write_image(self, image: Image, frame: bool = False) -> tuple[Segment, ...]:
        """A picture between its tokens; the prompt's text shows its path, as the release writes it."""
        shown = "" if isinstance(image.source, bytes) else str(image.source)
        slot = Segment("<image>", "media", images=(image,), frame=frame, shown=shown)
        return Segment("<img>", "special"), slot, Segment("</img>", "special")

    def clean_answer(self, text: str) -> str:
        """The answer as it is: it goes on with the prompt's text, and the tokenizer has left out what stopped it."""
        return text


@dataclass(frozen=True, kw_only=True)
class ChatMLTemplate(PlainTemplate):
    """The chat of Qwen-VL: turns in ChatML, as much history as the window takes.

    Attributes:
        count: tokens of a plain text.
        tokens: positions a picture takes.
        window: tokens that system text and history may have, unless an option says so.
    """

    count: Callable[[str], int]
    tokens: int
    window: int

    def choose_turns(self, messages: Sequence[Message], options: EncodeOptions) -> Sequence[Message]:
        """The messages without the oldest turns that do not fit beside system text and newer history.

        The question itself does not count, and training takes all. So does the release's `make_context`, which
        leaves turns out without a word.
        """
        if options.train:
            return messages
        system, *history, question = self.add_system(messages)
        limit = options.family.get("max_window_size") or self.window
        turns = [history[at : at + 2] for at in range(0, len(history), 2)]
        # The newline behind the last message belongs to the question.
        size = self.measure([system], options) - 1
        first = len(turns)
        while first and size + self.measure(turns[first - 1], options) < limit:
            first -= 1
            size += self.measure(turns[first], options)
        if first:
            LOG.warning("%d turns of history are left out: max_window_size is %d tokens", first, limit)
        return (system, *itertools.chain(*turns[first:]), question)

    def measure(self, messages: Sequence[Message], options: EncodeOptions) -> int:
        """Tokens of whole messages."""
        segments = [segment for message in messages for segment in self.write_message(message, options)]
        runs = itertools.groupby(segments, key=lambda segment: segment.kind)
        return sum(self.measure_run(kind, [segment for segment in run if segment.text]) for kind, run in runs)

    def measure_run(self, kind: str, segments: Sequence[Segment]) -> int:
        """Tokens of neighbouring segments of one kind."""
        if kind == "text":
            return self.count("".join(segment.text for segment in segments))
        return len(segments) * (self.tokens if kind == "media" else 1)

    def write_message(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of one message.

        As `finetune.py` does, `loss_on="release"` trains on what begins and ends every turn, the user's too.
        """
        begin, *inside, end, newline = super().write_message(message, options)
        if options.train and options.loss_on == "release":
            begin, end, newline = (replace(segment, trained=True) for segment in (begin, end, newline))
        return (begin, *inside, end, newline)

    def write_content(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a content, which the release tokenizes apart from the role before it."""
        return (SEAM, *super().write_content(message, options))

    def clean_answer(self, text: str) -> str:
        """The answer without white space around it."""
        return super().clean_answer(text).strip()


def number_pictures(messages: Sequence[Message], options: EncodeOptions) -> tuple[Message, ...]:
    """The messages with `Picture N: ` before and a newline behind each picture that no text places.

    Pictures at tags, and those that somebody numbered, stay as they were written. The option
    `picture_numbering` counts through each `turn` as the release's `from_list_format` does, through the
    `conversation` as its web demo and fine-tuning data do, or writes nothing (`none`) as its evaluations do.

    Raises:
        UsageError: for another value of the option.
    """
    numbering = options.family.get("picture_numbering", NUMBERINGS[0])
    if numbering not in NUMBERINGS:
        raise UsageError(f"picture_numbering={numbering}", "there is no such way", f"use {', '.join(NUMBERINGS)}")
    if numbering == "none":
        return tuple(messages)
    written, seen = [], 0
    for message in messages:
        placed = "<image>" in message.text
        parts = message.content if placed else _number_parts(message.content, 0 if numbering == "turn" else seen)
        written.append(replace(message, content=tuple(parts)))
        seen += len(message.media)
    return tuple(written)


def _number_parts(parts: Sequence[Part], seen: int) -> Iterator[Part]:
    before = ""
    for part in parts:
        if isinstance(part, Text):
            yield part
        elif NUMBERED.search(before):
            seen += 1
            yield part
        else:
            seen += 1
            yield from (Text(f"Picture {seen}: "), part, Text("\n"))
        before = part.text if isinstance(part, Text) else ""


def build_template(checkpoint: Checkpoint) -> PlainTemplate:
    """The template of a checkpoint: `chat_format` in its `generation_config.json` decides."""
    chat = ChatMLTemplate(
        roles={role: f"<|im_start|>{role}\n" for role in ROLES},
        ends=dict.fromkeys(ROLES, STOP),
        after="\n",
        specials=frozenset({START, STOP}),
        typed=frozenset(GROUNDING),
        system=SYSTEM,
        untagged="",
        stop=Stop(tokens=(STOP, START, END)),
        count=lambda text: len(tokenizer.encode(text)),
        tokens=count_queries(checkpoint.config),
        window=read_window(checkpoint.folder),
    )
    tokenizer = load_tokenizer(checkpoint.folder)
    if is_chat(checkpoint.folder):
        return chat
    return PlainTemplate(
        roles=dict.fromkeys(ROLES, ""),
        ends={"system": "", "user": "", "assistant": END},
        specials=frozenset({END}),
        typed=chat.typed,
        untagged="",
        stop=Stop(tokens=(END,)),
        chat=chat,
    )
