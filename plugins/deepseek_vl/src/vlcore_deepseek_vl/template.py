"""The prompt of the release: `User: question`, two line breaks, `Assistant: answer`, end of sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vlcore.messages import Message
from vlcore.resolve import Checkpoint
from vlcore.template import ChatTemplate, EncodeOptions, Segment, Stop, place_tagged

from vlcore_deepseek_vl.release import read_special_tokens

#: The release's system text; `processor_config.json` does not hold it.
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True, kw_only=True)
class DeepseekVLTemplate(ChatTemplate):
    """The chat of DeepSeek-VL.

    Attributes:
        placeholder: how an image is written in the prompt; the same text typed by a user stands for one, too.
    """

    placeholder: str

    def write_segments(self, messages: Sequence[Message], options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a conversation; the token before everything is not shown in the prompt's text."""
        return tuple(
            replace(segment, shown="") if segment.kind == "special" and segment.text == self.prefix else segment
            for segment in super().write_segments(messages, options)
        )

    def write_message(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of one message, stripped at both ends as the release does.

        A message that is then empty keeps its role and loses its end, and an empty system text leaves nothing.
        The blank behind `Assistant:` belongs to the answer: an open prompt ends without it.
        """
        if message.role == "system":
            text = message.text.lstrip()
            return (Segment(text + self.ends["system"]),) if text else ()
        trained = options.train and message.role == "assistant" and message.trained
        head = Segment(self.roles[message.role])
        content = strip_ends(self.write_content(message, options))
        if not content:
            return (head,)
        end = Segment(self.ends[message.role], "special" if message.role == "assistant" else "text")
        return (head, *(replace(segment, trained=trained) for segment in (Segment(" "), *content, end)))

    def write_content(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a message's content.

        Raises:
            UsageError: when placeholders typed by the user and images differ in number, also when there is no
                image at all (the release would repeat one, or put an empty one there).
        """
        if message.role == "user" and not message.media:
            place_tagged(message, (self.placeholder,))
        segments = super().write_content(message, options)
        return tuple(replace(s, text=self.placeholder) if s.kind == "media" else s for s in segments)

    def clean_answer(self, text: str) -> str:
        """The answer as the release returns it: decoded without special tokens, blanks kept."""
        return text


def strip_ends(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments without white space at their outer ends; an image ends the stripping.

    >>> [s.text for s in strip_ends([Segment(" "), Segment(" a "), Segment("b "), Segment("\\n")])]
    ['a ', 'b']
    """
    left = list(segments)
    while left and left[0].kind == "text" and not left[0].text.strip():
        left.pop(0)
    while left and left[-1].kind == "text" and not left[-1].text.strip():
        left.pop()
    if left and left[0].kind == "text":
        left[0] = replace(left[0], text=left[0].text.lstrip())
    if left and left[-1].kind == "text":
        left[-1] = replace(left[-1], text=left[-1].text.rstrip())
    return tuple(left)


def build_template(checkpoint: Checkpoint) -> DeepseekVLTemplate:
    """The template with the special tokens that a checkpoint's tokenizer names."""
    names = read_special_tokens(checkpoint.folder)
    return DeepseekVLTemplate(
        roles={"system": "", "user": "User:", "assistant": "Assistant:"},
        ends={"system": "\n\n", "user": "\n\n", "assistant": names.eos},
        prefix=names.bos if names.adds_bos else "",
        specials=frozenset({names.bos}),
        system=SYSTEM,
        tags=("<image>", names.image),
        untagged="",
        stop=Stop(tokens=(names.eos,)),
        placeholder=names.image,
    )
