"""Prompts of the releases: a table of five templates, system texts by generation, the media rule."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vlcore.errors import CheckpointError
from vlcore.messages import Image, Message, Role, Video
from vlcore.resolve import Checkpoint
from vlcore.template import ChatTemplate, EncodeOptions, Segment, Stop, split_tokens

from vlcore_internvl.family import is_first_generation
from vlcore_internvl.release import first_tokens

#: Tokens of grounding, which users and assistants write as text.
GROUNDING = frozenset({"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"})
#: Both commas are as the release writes them.
SECOND_GENERATION = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
THIRD_GENERATION = (
    "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
#: The date is the release's.
GPT_OSS = (
    "You are InternVL, a large language model trained by Shanghai AI Laboratory.\n"
    "Knowledge cutoff: 2024-06\nCurrent date: 2025-08-06\n\nReasoning: low\n\n"
    "# Valid channels: final. Channel must be included for every message."
)
#: System texts by generation and template.
SYSTEM_TEXTS: Mapping[str, Mapping[str, str]] = {
    "first": {
        "internlm2-chat": "You are an AI assistant whose name is InternLM (书生·浦语).",
        "phi3-chat": "You are an AI assistant whose name is Phi-3.",
        "Hermes-2": "Answer the questions.",
    },
    "later": {
        "internlm2-chat": SECOND_GENERATION,
        "phi3-chat": SECOND_GENERATION,
        "Hermes-2": SECOND_GENERATION,
        "internvl2_5": THIRD_GENERATION,
        "internvl3_5_gpt_oss": GPT_OSS,
    },
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What tells one template of the release from another.

    Attributes:
        role: how a role is written, `{}` is its name.
        specials: the tokens in what this table writes.
        end: the token behind every message.
        after: text behind that token.
        frame: text before a video frame, `{}` is its number.
        strips: whether the release's training code strips every message.
        assistant: the assistant's name in `role`, with what the release has the model say before every answer.
        counted: what of the assistant's role text the release's training code counts in the loss.
        last: the token behind the last message of a training row, where it is another one.
        begins: whether prompts begin with the tokenizer's begin-of-text token, where it has one.
    """

    role: str = "<|im_start|>{}\n"
    specials: frozenset[str] = frozenset({"<|im_start|>", "<|im_end|>"})
    end: str = "<|im_end|>"
    after: str = ""
    frame: str = "Frame{}: "
    strips: bool = False
    assistant: str = "assistant"
    counted: str = ""
    last: str = ""
    begins: bool = True


LAYOUTS = {
    "internlm2-chat": Layout(strips=True),
    "Hermes-2": Layout(),
    "phi3-chat": Layout(
        role="<|{}|>\n",
        specials=frozenset({"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"}),
        end="<|end|>",
    ),
    "internvl2_5": Layout(after="\n", frame="Frame-{}: "),
    "internvl3_5_gpt_oss": Layout(
        role="<|start|>{}<|message|>",
        specials=frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"}),
        end="<|end|>",
        frame="Frame-{}: ",
        assistant="assistant<|channel|>final",
        counted="<|channel|>final<|message|>",
        last="<|return|>",
        begins=False,
    ),
}
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class InternVLTemplate(ChatTemplate):
    """The chat of InternVL: hidden tokens around each picture, videos as labelled frames.

    Attributes:
        first: tokens before everything, which the release's prompt text does not show.
        frame: text before a video frame, `{}` is its number.
        strips: whether the release's training code strips every message.
        counted: what of the assistant's role text the release's training code counts in the loss.
        last: the token behind the last message of a training row, where it is another one.
    """

    first: tuple[str, ...] = ()
    frame: str = "Frame{}: "
    strips: bool = False
    counted: str = ""
    last: str = ""
    tags: tuple[str, ...] = ("<image>", "<video>")
    typed: frozenset[str] = field(default=GROUNDING)

    def write_segments(self, messages: Sequence[Message], options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a conversation, behind the tokens that begin every prompt."""
        segments = (*(_hidden(token) for token in self.first), *super().write_segments(messages, options))
        if self.last and options.train:
            return (*segments[:-1], replace(segments[-1], text=self.last))
        return segments

    def write_message(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of one message. The release trains gpt-oss to say the channel, which the prompt says here."""
        segments = super().write_message(message, options)
        if message.role != "assistant" or not (message.trained and options.train and options.loss_on == "release"):
            return segments
        head = len(split_tokens(self.roles["assistant"], self.specials))
        first = head - len(split_tokens(self.counted, self.specials))
        counted = (replace(segment, trained=True) for segment in segments[first:head])
        return (*segments[:first], *counted, *segments[head:])

    def write_content(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a message's content.

        Training as the release strips every message of `internlm2-chat`; other encodings keep the text.
        """
        if options.family.get("combine_images"):
            segments = self.write_together(message, options)
        else:
            segments = super().write_content(message, options)
        strips = self.strips and options.train and options.loss_on == "release"
        return strip_text(segments) if strips else segments

    def write_together(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a message whose pictures share the place of the first."""
        pictures = tuple(part for part in message.media if isinstance(part, Image))
        seen = itertools.count()
        kept = tuple(part for part in message.content if not isinstance(part, Image) or next(seen) == 0)
        first = replace(message, content=kept)
        return tuple(
            replace(segment, images=pictures) if segment.kind == "media" and not segment.frame else segment
            for segment in super().write_content(first, options)
        )

    def write_image(self, image: Image, frame: bool = False) -> tuple[Segment, ...]:
        """A picture's slot between `<img>` and `</img>`; the prompt text shows `<image>` alone."""
        return _hidden("<img>"), Segment("<image>", "media", images=(image,), frame=frame), _hidden("</img>")

    def write_video(self, video: Video, options: EncodeOptions) -> tuple[Segment, ...]:
        """A line for each frame, counted from 1. What follows the last is what follows an image."""
        label = options.family.get("frame_label") or self.frame
        segments: list[Segment] = []
        for number, frame in enumerate(video.frames, start=1):
            lead = label.replace("{}", str(number))
            segments += [Segment(lead if number == 1 else "\n" + lead), *self.write_image(frame, frame=True)]
        return tuple(segments)


def build_template(checkpoint: Checkpoint) -> InternVLTemplate:
    """The template of a checkpoint.

    `config.json` does not tell the first generation from the second; the model's record does, and without one
    the second's system text is taken. `system_message` there wins unless it is null (InternVL3 has null).

    Raises:
        CheckpointError: when `config.json` names a template that is not in the table.
    """
    name = str(checkpoint.config.get("template"))
    if name not in LAYOUTS:
        known = f"known are {', '.join(LAYOUTS)}"
        raise CheckpointError(f"template {name} in {checkpoint.folder}", "there is no such template", known)
    generation = "first" if is_first_generation(checkpoint.record) else "later"
    system = checkpoint.config.get("system_message")
    layout = LAYOUTS[name]
    roles = {role: layout.role.format(layout.assistant if role == "assistant" else role) for role in _ROLES}
    return InternVLTemplate(
        roles=roles,
        ends=dict.fromkeys(_ROLES, layout.end),
        after=layout.after,
        specials=layout.specials,
        system=SYSTEM_TEXTS[generation][name] if system is None else str(system),
        stop=Stop(tokens=tuple(filter(None, (layout.last, layout.end)))),
        first=first_tokens(checkpoint.folder) if layout.begins else (),
        frame=layout.frame,
        strips=layout.strips,
        counted=layout.counted,
        last=layout.last,
    )


def strip_text(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The segments without white space at their outer ends.

    >>> [s.text for s in strip_text([Segment(" a "), Segment("<box>", "special"), Segment(" b ")])]
    ['a ', '<box>', ' b']
    """
    stripped = list(segments)
    if stripped and stripped[0].kind == "text":
        stripped[0] = replace(stripped[0], text=stripped[0].text.lstrip())
    if stripped and stripped[-1].kind == "text":
        stripped[-1] = replace(stripped[-1], text=stripped[-1].text.rstrip())
    return tuple(segment for segment in stripped if segment.text)


def _hidden(token: str) -> Segment:
    return Segment(token, "special", shown="")
