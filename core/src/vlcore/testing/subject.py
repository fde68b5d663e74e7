"""What is checked: a family, a tiny checkpoint of it, and conversations about pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlcore.batch import Example
from vlcore.config import LoadConfig
from vlcore.errors import UsageError
from vlcore.family import ModelFamily
from vlcore.media import VideoProcessor
from vlcore.messages import Image, Message, Video, make_message, user
from vlcore.model import Frontend, VLModel, build_frontend, open_model
from vlcore.plugins import Plugin, get_registry
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore.testing.outcome import Fault

#: Questions and answers that the conversations below are made of; the tiny tokenizer learns them.
TEXTS = (
    "What is it?", "A cat, I think.", "What is in the picture?", "It is red.", "And in these two?",
    "Two boats, one behind the other.", "Who are you?", "Is it the same one?", "No, another one.", "What happens?",
)
#: (width, height) of the pictures: near a square, wide and high.
SIZES = ((64, 48), (120, 40), (40, 100))


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation that ends with an answer, by a name that tells what is in it."""

    name: str
    messages: tuple[Message, ...]

    @property
    def question(self) -> tuple[Message, ...]:
        """It without its last answer."""
        return self.messages[:-1]


@dataclass(frozen=True)
class Subject:
    """A family that is checked. What is made of it is made once; checks change none of it.

    Attributes:
        plugin: the plugin that owns the family.
        family: the family.
        work: an empty folder for what the checks write.
        parity: folders with recorded parity data.
        given: a checkpoint of the family that is tried instead of a tiny one.
    """

    plugin: Plugin
    family: ModelFamily
    work: Path
    parity: tuple[Path, ...] = ()
    given: Path | None = None

    @cached_property
    def folder(self) -> Path:
        """The checkpoint that is tried: a tiny one, unless another one was given."""
        return self.given or self.write_tiny("tiny")

    def write_tiny(self, name: str, seed: int = 0) -> Path:
        """A tiny checkpoint in a folder of this name.

        Raises:
            Fault: when the plugin writes none.
        """
        folder = self.new_folder(name)
        written = get_registry().call(
            "write_tiny", self.plugin.name, family=self.family, folder=folder, texts=TEXTS, seed=seed)
        there = sorted(path.name for path in folder.iterdir())
        if not written:
            why, do = ("write_tiny writes, and does not say so", "let it return True") if there else (
                "its plugin writes no tiny checkpoint, so nothing can be tried", "fill the hook write_tiny")
            raise Fault(f"family {self.family.name}", why, do)
        if "config.json" not in there:
            raise Fault("write_tiny", f"it writes no config.json, only {', '.join(there) or 'nothing'}",
                        "write all files that a release has")
        return folder

    def new_folder(self, name: str) -> Path:
        """A new empty folder to write in, of this name or one that begins with it."""
        taken = len(list(self.work.glob(f"{name}*")))
        folder = self.work / (f"{name}-{taken + 1}" if taken else name)
        folder.mkdir(parents=True)
        return folder

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """It as it is opened by its folder."""
        return open_checkpoint(self.folder)

    @cached_property
    def frontend(self) -> Frontend:
        """Its tokenizer, template and media processor."""
        return build_frontend(self.checkpoint)

    @cached_property
    def model(self) -> VLModel:
        """The loaded model, on the CPU in float32."""
        return self.load()

    def load(self, folder: Path | None = None, adapter: str | Path = "") -> VLModel:
        """A model of its own: that of the checkpoint, or what lies in a folder."""
        return open_model(LoadConfig(model=str(folder or self.folder), dtype="fp32", device_map="cpu"), adapter)

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """Pictures of several sizes and contents, as files."""
        from PIL import Image as PilImage

        folder = self.new_folder("pictures")
        radial, linear = PilImage.radial_gradient("L"), PilImage.linear_gradient("L")
        bands = [(radial, linear, linear.rotate(90)), (linear, radial, radial), (linear.rotate(90), linear, radial)]
        paths = []
        for number, (size, three) in enumerate(zip(SIZES, bands, strict=True)):
            paths.append(folder / f"{number}.png")
            PilImage.merge("RGB", three).resize(size).save(paths[-1])
        return tuple(paths)

    @cached_property
    def talks(self) -> tuple[Talk, ...]:
        """The conversations that the model takes: of text, of pictures, of several turns, of a video."""
        return tuple(talk for talk in self.list_talks() if talk.name not in self.refused)

    @cached_property
    def refused(self) -> Mapping[str, str]:
        """The conversations that the plugin refuses with a UsageError, and its words.

        Raises:
            Fault: when it refuses one that every model takes.
        """
        refused = {}
        for talk in self.list_talks():
            try:
                self.frontend.plan(talk.messages, train=True)
            except UsageError as error:
                refused[talk.name] = str(error)
        for name in ("text", "picture"):
            if name in refused:
                raise Fault(f"a conversation ({name})", f"the plugin refuses it: {refused[name]}",
                            "let the template take a text alone, and one with a picture")
        return refused

    def list_talks(self) -> Iterator[Talk]:
        """Conversations of every kind."""
        first, second, third = self.pictures
        asked = user(TEXTS[2], [first])
        yield make_talk("text", user(TEXTS[0]), TEXTS[1])
        yield make_talk("picture", asked, TEXTS[3])
        yield make_talk("turns", asked, TEXTS[3], user(TEXTS[6]), TEXTS[1])
        yield make_talk("long text", user(" ".join(TEXTS)), " ".join(TEXTS[1:6]))
        yield make_talk("pictures", user(TEXTS[4], [second, third]), TEXTS[5])
        yield make_talk("later picture", asked, TEXTS[3], user(TEXTS[7], [third]), TEXTS[8])
        if self.takes_video:
            yield make_talk("video", user(TEXTS[9], videos=[self.video]), TEXTS[3])

    @property
    def takes_video(self) -> bool:
        """Whether the family says that it takes videos."""
        return isinstance(self.frontend.media, VideoProcessor)

    @property
    def video(self) -> Video:
        """A video of two frames."""
        return Video(frames=tuple(map(Image, self.pictures[:1] * 2)))

    @cached_property
    def examples(self) -> Mapping[str, Example]:
        """Each conversation as it is asked, by its name, with its pixels."""
        return {talk.name: self.frontend.encode(talk.question) for talk in self.talks}

    @cached_property
    def rows(self) -> Mapping[str, Example]:
        """Each conversation as it is trained on, by its name, with its pixels."""
        return {talk.name: self.frontend.encode(talk.messages, train=True) for talk in self.talks}


def make_talk(name: str, *turns: Message | str) -> Talk:
    """A talk of questions and, as plain texts, answers."""
    return Talk(name, tuple(make_message("assistant", turn) if isinstance(turn, str) else turn for turn in turns))
