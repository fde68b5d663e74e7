"""The prompt of the releases: role names between `###`, pictures first in their turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlcore.messages import Image, Message, Role, Text, Video
from vlcore.template import ChatTemplate, EncodeOptions, Segment, Stop, place_tagged

from vlcore_yi_vl.family import FAMILY

#: How a picture is written in the prompt's text.
PLACEHOLDER = "<image_placeholder>"
#: Between turns, and what ends an answer.
MARK = "###"
#: One paragraph, in English and then in Chinese.
SYSTEM = (
    "This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. "
    "Read all the images carefully, and respond to the human's questions with informative, helpful, detailed "
    "and polite answers. "
    "这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。"
    "仔细阅读所有的图像，并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。"
)
ROLES: Mapping[Role, str] = {"system": "", "user": "Human:", "assistant": "Assistant:"}
ENDS: Mapping[Role, str] = {"system": f"\n\n{MARK}", "user": f"\n{MARK}", "assistant": f"\n{MARK}"}


@dataclass(frozen=True, kw_only=True)
class YiVLTemplate(ChatTemplate):
    """The chat of Yi-VL, without any special token.

    What is trained of an answer is the space in front of it, its text, and the line break and `###` behind it.
    """

    roles: Mapping[Role, str] = field(default_factory=lambda: ROLES)
    ends: Mapping[Role, str] = field(default_factory=lambda: ENDS)
    after: str = " "
    system: str | None = SYSTEM
    tags: tuple[str, ...] = FAMILY.tags
    stop: Stop = field(default=Stop(tokens=("<|endoftext|>",), strings=(MARK,)))

    def write_message(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of one message; without content it is the role alone, as the release has it."""
        if message.role != "system" and not message.media and not message.text:
            return (Segment(self.roles[message.role]),)
        return super().write_message(message, options)

    def write_content(self, message: Message, options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a message's content: its pictures, a line break, its text.

        Pictures come first wherever they stood. Where tags placed them, the text is stripped, as LLaVA's
        training code does.
        """
        placed = place_tagged(message, self.tags) if message.media else None
        parts = message.content if placed is None else placed
        slots = [slot for part in parts if not isinstance(part, Text) for slot in self.write_medium(part, options)]
        text = "".join(part.text for part in parts if isinstance(part, Text))
        text = text if placed is None else text.strip()
        lead = () if message.role == "system" else (Segment(" "),)
        return (*lead, *slots, Segment("\n" + text if slots else text))

    def write_medium(self, medium: Image | Video, options: EncodeOptions) -> tuple[Segment, ...]:
        """The slot of one picture; videos are refused."""
        if isinstance(medium, Video):
            return self.write_video(medium, options)
        return (Segment(PLACEHOLDER, "media", images=(medium,)),)

    def clean_answer(self, text: str) -> str:
        """The answer stripped, without the `###` at its end: of `####` one `#` stays, as in the release."""
        return text.strip().removesuffix(MARK).strip()
