"""The talk in a terminal: prompts, commands, questions for media, streamed answers.

Works on a terminal and on piped input alike; a turn that fails is reported in one line and can be typed again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from vlcore.config import GenerateConfig
from vlcore.errors import VlcoreError
from vlcore.family import AskMedia
from vlcore.generate import Reply
from vlcore.media import read_size
from vlcore.messages import Image, Message, Video, make_message, read_inline
from vlcore.talk import Session
from vlcore.terminal import clean_text
from vlcore.transcript import append_row

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
#: `save FILE`; any other text that begins so is a question.
SAVE = re.compile(r"save\s+(\S.*\.jsonl?)", re.IGNORECASE)
#: `/compare QUESTION`, or the last question when it stands alone.
COMPARE = re.compile(r"/compare(?:\s+(.*))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Terminal:
    """Where a talk reads and writes.

    Attributes:
        read: gives a line for a prompt; EOFError at the end.
        write: prints.
        show: is handed the conversation after each answer.
        person: whether a person types there, whom Ctrl-C gives the prompt back; else it ends the talk.
        stream: whether answers are printed while they are made.
    """

    read: Callable[[str], str]
    write: Callable[[str], None]
    show: Callable[[Sequence[Message]], object] = lambda messages: None
    person: bool = True
    stream: bool = True


class Talk:
    """A talk between a person and a model."""

    def __init__(
        self,
        session: Session,
        terminal: Terminal,
        ask: AskMedia,
        settings: GenerateConfig,
        opening: Sequence[Image | Video] = (),
    ) -> None:
        self.session, self.terminal, self.ask, self.settings = session, terminal, ask, settings
        self.multi_line = False
        # Media that come with the first question. A talk that has them is about them, and asks for no others.
        self.opening, self.asks = tuple(opening), not opening
        # Where media came from that have been fetched.
        self.origins: dict[bytes, str] = {}

    def run(self) -> None:
        """Turns until the person leaves."""
        try:
            while self.take_turn():
                pass
        except EOFError:
            self.terminal.write("\n")

    def take_turn(self) -> bool:
        """One input: a command or a question. False ends the talk."""
        try:
            text = self.read_text("<<<[M] " if self.multi_line else "<<< ", self.multi_line)
            return self.obey(text)
        except VlcoreError as error:
            self.terminal.write(f"[ERROR] {error}\n")
        except KeyboardInterrupt:
            if not self.terminal.person:
                raise
            self.terminal.write("\n[INFO] Stopped; `exit` or Ctrl-D ends the talk.\n")
        return True

    def obey(self, text: str) -> bool:
        """Carries out an input. False ends the talk."""
        command = text.strip().lower()
        if command in ENDINGS:
            return False
        if command == "clear":
            self.session.clear()
            self.asks = True
        elif command in HELP:
            self.multi_line = command == "multi-line"
            self.terminal.write(HELP[command] + "\n")
        elif command == "reset-system":
            self.reset_system()
        elif saved := SAVE.fullmatch(text.strip()):
            self.save(Path(saved[1]).expanduser())
        elif compared := COMPARE.fullmatch(text.strip()):
            self.compare(compared[1] or "")
        elif command:
            self.answer(text)
        return True

    def read_text(self, prompt: str, multi_line: bool) -> str:
        """A line, or lines up to a `#` in multi-line mode; commands need no `#`."""
        text = self.terminal.read(prompt)
        while multi_line and not text.rstrip().endswith("#"):
            if is_command(text):
                return text
            text += "\n" + self.terminal.read("")
        return text.rstrip().removesuffix("#") if multi_line else text

    def reset_system(self) -> None:
        """Asks for a new system text and forgets the talk; an empty one brings back the model's own."""
        text = self.read_text("<<<[S] ", self.multi_line)
        self.session.clear()
        self.session.messages = (make_message("system", text),) if text.strip() else ()

    def save(self, path: Path) -> None:
        """Writes the talk as a row of a data file."""
        rows = append_row(path, self.session.messages, self.origins)
        self.terminal.write(f"[INFO] The talk is row {rows} of {path}.\n")

    def answer(self, text: str) -> None:
        """Answers a question, asking for its media first."""
        self.ask_model(text)
        self.terminal.write(f"\n{LINE}\n")
        self.terminal.show(self.session.messages)

    def compare(self, text: str) -> None:
        """The answers to a question, or to the last one, with the adapter and without; the first is remembered."""
        with self.session.model.without_adapter():
            pass  # raises when there is none, before anything is asked
        if text:
            self.terminal.write("[with the adapter]\n")
            self.ask_model(text)
        pieces = self.session.stream_without_adapter(self.settings)
        if not text and self.session.messages:
            self.terminal.write(f"[with the adapter]\n{clean_text(self.session.messages[-1].text)}")
        self.terminal.write("\n[without the adapter]\n")
        self.print_pieces(pieces)
        self.terminal.write(f"\n{LINE}\n")

    def ask_model(self, text: str) -> None:
        """Prints the answer to a question, which is remembered with it."""
        message = self.gather_media(text)
        self.print_pieces(self.session.stream_message(message, self.settings))
        self.opening = ()

    def print_pieces(self, pieces: Generator[str, None, Reply]) -> None:
        """Prints an answer as it comes, or whole."""
        # Closed at once when Ctrl-C comes while a piece is printed, so that the model stops, too.
        with closing(pieces):
            for piece in pieces if self.terminal.stream else ("".join(pieces),):
                self.terminal.write(clean_text(piece))

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
        self.origins.update(find_origins(message, fetched))
        for part in fetched.media:
            for image in (part,) if isinstance(part, Image) else part.frames:
                read_size(image)
        return fetched

    def ask_tagged(self, tag: str) -> Image | Video:
        """The medium for a tag that was typed."""
        source = self.terminal.read(f"Input {TAGS[tag]} path or URL <<< ").strip()
        return Image(source) if tag == "<image>" else Video(source)

    def ask_path(self) -> tuple[Image, ...]:
        """The picture of this turn; none for an empty line, or when the pictures of the talk are there."""
        if not self.asks:
            return ()
        if self.ask == "conversation" and any(m.media for m in self.session.messages):
            return ()
        source = self.terminal.read("Input a media path or URL <<< ").strip()
        return (Image(source),) if source else ()


def is_command(text: str) -> bool:
    """Whether a line is a command as it stands."""
    plain = text.strip()
    words = (*HELP, *ENDINGS, "clear", "reset-system", "/compare")
    return plain.lower() in words or SAVE.fullmatch(plain) is not None


def find_origins(given: Message, fetched: Message) -> Iterator[tuple[bytes, str]]:
    """The bytes of media that have been fetched, and the URLs they came from."""
    for asked, part in zip(given.media, fetched.media, strict=True):
        if isinstance(part.source, bytes) and isinstance(asked.source, str):
            yield part.source, asked.source
