"""The talk in a terminal: prompts, commands, questions for media, streamed answers.

Works on a terminal and on piped input alike; a turn that fails is reported in one line and can be typed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vlcore.config import GenerateConfig
from vlcore.errors import VlcoreError
from vlcore.family import AskMedia
from vlcore.media import read_size
from vlcore.messages import Image, Message, Video, make_message, read_inline
from vlcore.talk import Session

#: Printed after every turn.
LINE = "-" * 50
#: Words that end a talk.
ENDINGS = ("exit", "quit")
#: Tags a user types to be asked for a medium, and what the question calls it.
TAGS = {"<image>": "an image", "<video>": "a video"}
HELP = {
    "multi-line": (
        "[INFO] End multi-line input with `#`.\n[INFO] Input `single-line` to switch to single-line input mode."
    ),
    "single-line": "[INFO] Input `multi-line` to switch to multi-line input mode.",
}


@dataclass(frozen=True)
class Terminal:
    """Where a talk reads and writes.

    Attributes:
        read: gives a line for a prompt; EOFError at the end.
        write: prints.
        show: is handed the conversation after each answer.
    """

    read: Callable[[str], str]
    write: Callable[[str], None]
    show: Callable[[Sequence[Message]], object] = lambda messages: None


class Talk:
    """A talk between a person and a model."""

    def __init__(
        self,
        session: Session,
        terminal: Terminal,
        ask: AskMedia,
        settings: GenerateConfig,
        opening: Sequence[Image] = (),
    ) -> None:
        self.session, self.terminal, self.ask, self.settings = session, terminal, ask, settings
        self.multi_line = False
        # Pictures that come with the first question; once they are used, the person is asked.
        self.opening = tuple(opening)

    def run(self) -> None:
        """Turns until the person leaves."""
        try:
            while self.take_turn():
                pass
        except EOFError:
            self.terminal.write("\n")

    def take_turn(self) -> bool:
        """One input: a command or a question. False ends the talk."""
        text = self.read_text("<<<[M] " if self.multi_line else "<<< ", self.multi_line)
        command = text.strip().lower()
        if command in ENDINGS:
            return False
        if command == "clear":
            self.session.clear()
        elif command in HELP:
            self.multi_line = command == "multi-line"
            self.terminal.write(HELP[command] + "\n")
        elif command == "reset-system":
            self.reset_system()
        elif command:
            self.answer(text)
        return True

    def read_text(self, prompt: str, multi_line: bool) -> str:
        """A line, or lines up to a `#` in multi-line mode; commands need no `#`."""
        text = self.terminal.read(prompt)
        while multi_line and not text.rstrip().endswith("#"):
            if text.strip().lower() in (*HELP, *ENDINGS, "clear", "reset-system"):
                return text
            text += "\n" + self.terminal.read("")
        return text.rstrip().removesuffix("#") if multi_line else text

    def reset_system(self) -> None:
        """Asks for a new system text and forgets the talk; an empty one brings back the model's own."""
        text = self.read_text("<<<[S] ", self.multi_line)
        self.session.messages = (make_message("system", text),) if text.strip() else ()

    def answer(self, text: str) -> None:
        """Streams the answer to a question, asking for its media first."""
        try:
            message = self.gather_media(text)
            for piece in self.session.stream_message(message, self.settings):
                self.terminal.write(piece)
            self.opening = ()
        except VlcoreError as error:
            self.terminal.write(f"[ERROR] {error}\n")
            return
        except KeyboardInterrupt:
            self.terminal.write("\n[INFO] Stopped; the turn is forgotten.\n")
            return
        self.terminal.write(f"\n{LINE}\n")
        self.terminal.show(self.session.messages)

    def gather_media(self, text: str) -> Message:
        """The user's message: media written inside the text, else those the person is asked for.

        Raises:
            MediaError: when one cannot be read; the turn can be typed again.
        """
        tag = self.session.model.checkpoint.family.tags[0]
        tagged, inline = read_inline(text, tag)
        if inline:
            message = make_message("user", [*self.opening, *inline, tagged])
        elif self.opening:
            message = make_message("user", [*self.opening, text])
        elif self.ask == "tag":
            found = re.findall("|".join(TAGS), text)
            message = make_message("user", [*(self.ask_tagged(name) for name in found), text])
        else:
            message = make_message("user", [*self.ask_path(), text])
        return self.check_media(message)

    def check_media(self, message: Message) -> Message:
        """The message with its URLs fetched and videos sampled, after the header of each image has been read."""
        (fetched,) = self.session.model.frontend.fetch([message])
        for part in fetched.media:
            for image in (part,) if isinstance(part, Image) else part.frames:
                read_size(image)
        return fetched

    def ask_tagged(self, tag: str) -> Image | Video:
        """The medium for a tag that was typed."""
        source = self.terminal.read(f"Input {TAGS[tag]} path or URL <<< ").strip()
        return Image(source) if tag == "<image>" else Video(source)

    def ask_path(self) -> tuple[Image, ...]:
        """The picture of this turn; none for an empty line, or when the one picture of the talk is there."""
        if self.ask == "conversation" and any(m.media for m in self.session.messages):
            return ()
        source = self.terminal.read("Input a media path or URL <<< ").strip()
        return (Image(source),) if source else ()
