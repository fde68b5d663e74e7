"""Templates of native models: what the processor's chat template writes, cut into segments.

The chat template never sees what somebody typed. Each text is rendered as a mark that nobody can guess, so that it
is never taken for markup, and put back when the prompt has been cut at its special tokens. White space around a text
is rendered as it is: templates that trim do so.

Where an answer begins and ends is found by prefix: the prompt up to it, with the words that open it, and the
conversation up to and with it, must both be what the whole begins with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlcore.errors import CheckpointError, UsageError, first_line, show
from vlcore.messages import Message, make_message
from vlcore.native.positions import WHOLE
from vlcore.native.processor import list_tokens, load_config
from vlcore.native.talk import MARKS, Talk, flatten, read_talk
from vlcore.native.tokenizer import find_spaces
from vlcore.resolve import Checkpoint, read_json
from vlcore.template import EncodeOptions, Segment, Stop, check_order, split_tokens

#: What a chat template writes of a message's parts when it takes them for a text.
PARTS = "{'type': 'text', 'text': "


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a rendered conversation: where it ends, and whether an assistant says it and it is trained."""

    end: int
    answer: bool = False
    trained: bool = False


@dataclass(frozen=True, kw_only=True)
class NativeTemplate:
    """The chat template of a processor.

    Attributes:
        processor: transformers' processor, which renders.
        stop: when an answer ends.
        begin: the token that the tokenizer puts before a prompt that does not begin with it; empty for none.
        spaced: whether the vocabulary puts a space before the first text of a prompt.
        end: the token behind the last answer, for chat templates that write none.
        names: tokens at which a prompt is cut.
        left: those of them that take the white space before them.
        opening: how an answer of the history is opened, and how the prompt for one ends, where the chat template
            writes the two with different white space (LLaVA-OneVision's does). Everywhere it is the second.
    """

    processor: Any
    stop: Stop
    begin: str
    spaced: bool
    end: str
    names: frozenset[str] = field(repr=False)
    left: frozenset[str] = frozenset()
    opening: tuple[str, str] | None = None

    def write_segments(self, messages: Sequence[Message], options: EncodeOptions) -> tuple[Segment, ...]:
        """The segments of a conversation.

        Raises:
            UsageError: for a conversation that the chat template does not take, or changes.
        """
        check_order(messages, options.train)
        talk, whole = self.render_talk(messages, open_turn=not options.train)
        self.check_whole(whole, talk)
        segments = list(self.cut(whole, talk, self.find_spans(whole, messages, talk, options)))
        if options.train:
            segments = self.close_answer(segments, messages[-1].trained)
        return tuple(self.open(segments))

    def render_talk(self, messages: Sequence[Message], open_turn: bool) -> tuple[Talk, str]:
        """A conversation in the form that the chat template takes, and what it writes.

        Raises:
            UsageError: when it refuses the conversation.
        """
        talk = read_talk(messages)
        try:
            whole = self.render(talk.plain, open_turn)
            if PARTS not in whole:
                return talk, whole
        except UsageError as refusal:
            try:
                return flatten(talk), self.render(flatten(talk).plain, open_turn)
            except UsageError:
                raise refusal from None
        return flatten(talk), self.render(flatten(talk).plain, open_turn)

    def render(self, plain: Sequence[Mapping[str, Any]], open_turn: bool) -> str:
        """What the chat template writes.

        Raises:
            CheckpointError: for a chat template that is no Jinja.
            UsageError: when it refuses the conversation.
        """
        from jinja2 import TemplateSyntaxError

        try:
            written: str = self.processor.apply_chat_template(
                [dict(message) for message in plain], tokenize=False, add_generation_prompt=open_turn)
        except TemplateSyntaxError as error:
            why = f"its chat template cannot be read (line {error.lineno}: {first_line(error)})"
            raise CheckpointError(f"checkpoint {self.processor.folder}", why, "copy it again") from error
        except Exception as error:
            # What a template raises, or what Jinja or Python raise within it, is about the conversation.
            roles = ", ".join(str(message["role"]) for message in plain)
            why = f"the model's chat template refuses it ({first_line(error)})"
            raise UsageError(f"a conversation of {roles}", why,
                             "leave out the system text, or put the turns in the order it asks for") from error
        return written.replace(*self.opening) if self.opening else written

    def check_whole(self, whole: str, talk: Talk) -> None:
        """Refuses what a chat template has not written once each.

        Raises:
            UsageError: naming the text, or the pictures.
        """
        for mark, text in talk.texts.items():
            if whole.count(mark) != 1:
                why = f"the model's chat template writes it {whole.count(mark)} times"
                raise UsageError(f"the text {show(text)}", why, "leave it out, or put it into the question")
        written = whole.count(self.processor.image_token)
        if written != len(talk.images):
            raise UsageError(f"a conversation with {len(talk.images)} pictures",
                             f"the model's chat template writes {written}", "give the pictures in a user's turn")

    def find_spans(
        self, whole: str, messages: Sequence[Message], talk: Talk, options: EncodeOptions
    ) -> Iterator[Span]:
        """The spans of a rendered conversation, the last one up to its end."""
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            found = self.find_answer(whole, talk, number, strict=options.train)
            if found is not None:
                yield Span(found[0])
                yield Span(found[1], True, options.train and message.trained)
        yield Span(len(whole))

    def find_answer(self, whole: str, talk: Talk, number: int, strict: bool) -> tuple[int, int] | None:
        """From where to where an answer and its end stand, or None when that cannot be told.

        Args:
            whole: the rendered conversation.
            talk: what was rendered.
            number: of the message.
            strict: whether it must be told.

        Raises:
            UsageError: when strict, for a chat template whose conversations do not begin with their beginnings.
        """
        head, said = self.render(talk.plain[:number], True), self.render(talk.plain[: number + 1], False)
        for text, what in ((head, "the prompt before it"), (said, "the conversation up to it")):
            if not whole.startswith(text):
                if not strict:
                    return None
                raise explain_prefix(text, whole, f"answer {(number + 1) // 2} ({what})", talk)
        tail = max((said.rfind(mark) + len(mark) for mark in talk.texts if said.rfind(mark) >= len(head)),
                   default=len(head))
        behind = split_tokens(said[tail:], self.names)
        space = len(behind[0].text) if behind and not behind[0].text.strip() else 0
        ends = behind[1:2] if space else behind[:1]
        return len(head), tail + sum(space + len(end.text) for end in ends if end.kind == "special")

    def cut(self, whole: str, talk: Talk, spans: Iterator[Span]) -> Iterator[Segment]:
        """A rendered conversation cut at its spans, special tokens, pictures and texts."""
        pictures = iter(zip(talk.images, talk.frames, strict=True))
        start = 0
        for span in spans:
            for piece in MARKS.split(whole[start : span.end]):
                typed = talk.texts.get(piece)
                found = (Segment(typed),) if typed is not None else split_tokens(piece, self.names)
                for segment in found:
                    if segment.kind == "special" and segment.text == self.processor.image_token:
                        image, frame = next(pictures)
                        segment = replace(segment, kind="media", images=(image,), frame=frame)
                    yield replace(segment, answer=span.answer, trained=span.trained and segment.kind != "media")
            start = span.end

    def close_answer(self, segments: Sequence[Segment], trained: bool) -> list[Segment]:
        """The segments with a token that ends the last answer, where the chat template writes none."""
        last = max((at for at, segment in enumerate(segments) if segment.answer), default=len(segments) - 1)
        if segments[last].kind == "special" and segments[last].answer:
            return list(segments)
        return [*segments[: last + 1], Segment(self.end, "special", trained=trained, answer=True)]

    def open(self, segments: Sequence[Segment]) -> Iterator[Segment]:
        """The segments behind the token that the tokenizer puts before them, white space gone where tokens take it."""
        first = segments[0] if segments else Segment("")
        if self.begin and (first.kind, first.text) != ("special", self.begin):
            yield Segment(self.begin, "special", shown="")
            if self.spaced and first.kind == "text" and not first.text.startswith(" "):
                yield Segment(" ", shown="")
        for number, segment in enumerate(segments):
            behind = segments[number + 1] if number + 1 < len(segments) else None
            takes = segment.kind == "text" and behind is not None and behind.text in self.left
            yield replace(segment, text=segment.text.rstrip()) if takes else segment

    def clean_answer(self, text: str) -> str:
        """The answer up to the first stop token, stripped."""
        for mark in self.stop.tokens:
            text = text.split(mark, 1)[0]
        return text.strip()


def explain_prefix(text: str, whole: str, what: str, talk: Talk) -> UsageError:
    """The error for a chat template that writes a conversation's beginning differently when it goes on."""
    for mark, typed in talk.texts.items():
        text, whole = text.replace(mark, typed), whole.replace(mark, typed)
    at = next((at for at, pair in enumerate(zip(text, whole, strict=False)) if pair[0] != pair[1]), len(whole))
    return UsageError(
        what, f"the model's chat template writes {text[at : at + 30]!r} there, but {whole[at : at + 30]!r} when the "
        "conversation goes on, so what is trained cannot be told from it",
        "train with single turns, or put a chat template without such a rule into the model's folder")


@dataclass(frozen=True, kw_only=True)
class PrefixTemplate(NativeTemplate):
    """The prompt of models that answer one question and have no chat template, as PaliGemma's processor writes it.

    Pictures first, then the token that begins a text, the question, and a line's end.
    """

    def render(self, plain: Sequence[Mapping[str, Any]], open_turn: bool) -> str:
        """Pictures, question and answer.

        Raises:
            UsageError: for more than a question and its answer.
        """
        roles = [str(message["role"]) for message in plain]
        if roles not in (["user"], ["user", "assistant"]):
            raise UsageError(f"a conversation of {', '.join(roles)}",
                             "the model answers one question, without a system text and without earlier turns",
                             "give the question alone, or take a model that was made for talks")
        texts = ["".join(part.get("text", "") for part in message["content"]) for message in plain]
        pictures = [self.processor.image_token for message in plain for part in message["content"]
                    if part["type"] == "image"]
        closed = "".join((*texts[1:], self.end if texts[1:] else ""))
        return f"{''.join(pictures)}{self.processor.tokenizer.bos_token}{texts[0]}\n{closed}"


def build_template(checkpoint: Checkpoint) -> NativeTemplate:
    """The template of a checkpoint.

    Raises:
        CheckpointError: when it has no chat template.
    """
    processor, folder, config = checkpoint.processor, checkpoint.folder, load_config(checkpoint.folder)
    whole = config.model_type in WHOLE
    if processor.chat_template is None and not whole:
        raise CheckpointError(
            f"checkpoint {folder}", "it has no chat template, as models that were not trained for talks",
            "take the model's instruct or chat release, or put its chat template beside config.json as "
            "chat_template.jinja")
    tokens = list_tokens(processor)
    ends = find_ends(processor.tokenizer, config, folder)
    plain = processor.tokenizer
    begins = [] if whole else plain("x")["input_ids"][: -len(plain("x", add_special_tokens=False)["input_ids"])]
    template = (PrefixTemplate if whole else NativeTemplate)(
        processor=processor, stop=Stop(tokens=ends), end=ends[0],
        begin=plain.convert_ids_to_tokens(begins)[0] if begins else "",
        spaced=find_spaces(plain) == "first",
        names=frozenset(tokens), left=frozenset(name for name, token in tokens.items() if token.lstrip),
    )
    return add_stop(replace(template, opening=find_opening(template)))


def find_opening(template: NativeTemplate) -> tuple[str, str] | None:
    """How a template opens an answer of the history and a new one, when nothing but white space differs."""
    messages = [make_message("user", "a"), make_message("assistant", "b")]
    try:
        asked = template.render_talk(messages[:1], open_turn=True)[1]
        answered = template.render_talk(messages, open_turn=False)[1]
    except UsageError:
        return None
    # What stands behind the question, and between it and its answer.
    new, old = MARKS.split(asked)[-1], [*MARKS.split(answered), "", ""][2]
    return (old, new) if not old.startswith(new) and old.split() == new.split() else None


def find_ends(tokenizer: Any, config: Any, folder: Path) -> tuple[str, ...]:
    """Tokens that end an answer: the tokenizer's, the model's and those of its `generation_config.json`.

    Raises:
        CheckpointError: when nothing names one.
    """
    file = folder / "generation_config.json"
    named = read_json(file).get("eos_token_id") if file.is_file() else None
    text = config.get_text_config(decoder=True)
    ids = [number for found in (tokenizer.eos_token_id, named, getattr(text, "eos_token_id", None)) if found is not None
           for number in (found if isinstance(found, list) else [found])]
    names = tuple(dict.fromkeys(name for name in tokenizer.convert_ids_to_tokens(ids) if name is not None))
    if not names:
        raise CheckpointError(f"checkpoint {folder}", "nothing names a token that ends an answer",
                              "name it as eos_token in tokenizer_config.json")
    return names


def add_stop(template: NativeTemplate) -> NativeTemplate:
    """The template with the token that it writes behind an answer among those that end one.

    A template that refuses a plain question and answer is left as it is: it will say so when it is used.
    """
    try:
        segments = template.write_segments([make_message("user", "a"), make_message("assistant", "b")],
                                           EncodeOptions(train=True))
    except UsageError:
        return template
    ends = [segment.text for segment in segments if segment.kind == "special" and segment.answer]
    return replace(template, stop=Stop(tokens=tuple(dict.fromkeys((*template.stop.tokens, *ends[-1:])))))
