"""Generation: conversations in, replies out, in batches or streamed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal

from vlcore.batch import Example, collate
from vlcore.config import RELEASE_SETTINGS, GenerateConfig
from vlcore.messages import Message, make_message
from vlcore.template import Stop, Template
from vlcore.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from vlcore.model import VLModel

#: Used where neither the call nor the family says anything: greedy, up to this many tokens.
DEFAULTS: dict[str, Any] = {"max_new_tokens": 1024, "temperature": 0.0}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: the prompt's, those of them that stand for media, and the answer's."""

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: its text, without what stopped it.
        token_ids: the generated ids, the stopping token included.
        usage: tokens used.
        finish_reason: `stop` when the model ended by itself, `length` at the limit.
        history: the conversation with this answer, to go on from.
    """

    text: str
    token_ids: tuple[int, ...]
    usage: Usage
    finish_reason: Literal["stop", "length"]
    history: tuple[Message, ...]


def answer(
    model: VLModel, conversations: Sequence[Sequence[Message]], settings: GenerateConfig = RELEASE_SETTINGS
) -> list[Reply]:
    """Replies to several conversations, computed as one left-padded batch."""
    examples = [model.encode(messages) for messages in conversations]
    rows = run_batch(model, examples, settings)
    return [make_reply(model, *row) for row in zip(conversations, examples, rows, strict=True)]


def run_batch(
    model: VLModel,
    examples: Sequence[Example],
    settings: GenerateConfig,
    watch: Callable[[Sequence[int]], bool] | None = None,
) -> list[tuple[int, ...]]:
    """Generated ids of each example, cut behind what stopped it.

    Args:
        model: the model.
        examples: encoded for inference.
        settings: how to generate.
        watch: shown the ids of the first row after each token; generation ends when it returns True.
    """
    import torch

    tokenizer, stop = model.frontend.tokenizer, model.frontend.template.stop
    batch = model.place(collate(examples, tokenizer.pad_id, side="left"))
    batch = {name: tensor for name, tensor in batch.items() if name not in ("labels", "position_ids")}
    start = batch["input_ids"].shape[1]
    criterion = StopCriterion(tokenizer, stop, start, watch)
    chosen = native_settings(model, settings)
    module: Any = model.module
    with torch.inference_mode(), _seeded(settings.seed):
        output = module.generate(
            **batch, generation_config=chosen, stopping_criteria=[criterion],
            logits_processor=take_penalty(chosen, start) if model.checkpoint.family.penalised == "answer" else [],
        )
    return [criterion.cut(row, output[row, start:].tolist()) for row in range(len(examples))]


def native_settings(model: VLModel, settings: GenerateConfig) -> Any:
    """transformers' generation settings: the call's values over the family's over the defaults."""
    from transformers import GenerationConfig

    given = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) is not None}
    family = model.checkpoint.family
    values = DEFAULTS | dict(family.generation) | given
    values.pop("seed", None)
    tokenizer = model.frontend.tokenizer
    if values.get("temperature"):
        values = dict(family.sampling) | values
    else:
        values = {k: v for k, v in values.items() if k not in ("temperature", "top_p", "top_k")}
    return GenerationConfig(
        do_sample="temperature" in values,
        eos_token_id=[tokenizer.token_id(name) for name in model.frontend.template.stop.tokens] or None,
        pad_token_id=tokenizer.pad_id,
        **values,
    )


def take_penalty(chosen: Any, start: int) -> list[Any]:
    """The repetition penalty out of transformers' settings, as a processor that looks at the answer alone.

    Args:
        chosen: the settings; their own penalty, which would also look at the prompt, is taken away.
        start: length of the prompt.
    """
    from transformers import RepetitionPenaltyLogitsProcessor

    penalty, chosen.repetition_penalty = chosen.repetition_penalty, None
    return [RepetitionPenaltyLogitsProcessor(float(penalty), prompt_ignore_length=start)] if penalty else []


class StopCriterion:
    """Ends each row at its own stop string; called by transformers after every token.

    The rule is on text: a string may span tokens or lie inside one.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Stop, start: int, watch: Callable[[Sequence[int]], bool] | None = None
    ) -> None:
        self.tokenizer, self.stop, self.start, self.watch = tokenizer, stop, start, watch
        self.stop_ids = {tokenizer.token_id(name) for name in stop.tokens}
        self.ends: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Which rows are done, (rows,)."""
        import torch

        rows = input_ids[:, self.start :]
        if self.stop.strings:
            for number, row in enumerate(rows.tolist()):
                if number not in self.ends and self._has_string(row):
                    self.ends[number] = len(row)
        halt = self.watch is not None and self.watch(rows[0].tolist())
        done = [halt or number in self.ends for number in range(len(rows))]
        return torch.tensor(done, device=input_ids.device)

    def cut(self, row: int, ids: Sequence[int]) -> tuple[int, ...]:
        """A row's ids up to and with what stopped it; what follows is padding."""
        end = self.ends.get(row, len(ids))
        marks = [at for at, token in enumerate(ids[:end]) if token in self.stop_ids]
        return tuple(ids[: marks[0] + 1] if marks else ids[:end])

    def _has_string(self, ids: Sequence[int]) -> bool:
        # A stop string is short: its bytes cannot reach further back than this many tokens.
        longest = max(map(len, self.stop.strings))
        tail = self.tokenizer.decode(ids[-4 * longest - 4 :])
        return any(string in tail for string in self.stop.strings)


def make_reply(model: VLModel, messages: Sequence[Message], example: Example, ids: Sequence[int]) -> Reply:
    """The reply that generated ids make."""
    template, tokenizer = model.frontend.template, model.frontend.tokenizer
    raw = tokenizer.decode(ids)
    text = template.clean_answer(raw)
    media = sum(plan.tokens for plan in example.layout.plans)
    stopped = is_stopped(ids, raw, template, tokenizer)
    return Reply(
        text=text,
        token_ids=tuple(ids),
        usage=Usage(len(example), media, len(ids)),
        finish_reason="stop" if stopped else "length",
        history=(*messages, make_message("assistant", text)),
    )


def is_stopped(ids: Sequence[int], text: str, template: Template, tokenizer: Tokenizer) -> bool:
    """Whether an answer ended by itself."""
    stop = template.stop
    ended = bool(ids) and ids[-1] in {tokenizer.token_id(name) for name in stop.tokens}
    return ended or any(string in text for string in stop.strings)


def stream_answer(
    model: VLModel, messages: Sequence[Message], settings: GenerateConfig = RELEASE_SETTINGS
) -> Generator[str, None, Reply]:
    """The answer to a conversation piece by piece; the pieces joined are the reply's text.

    Leaving the iterator early stops the generation.

    Returns:
        The `Reply`, as the generator's return value.
    """
    queue: SimpleQueue[Any] = SimpleQueue()
    halted = Event()
    example = model.encode(messages)

    def watch(ids: Sequence[int]) -> bool:
        queue.put(list(ids))
        return halted.is_set()

    def work() -> None:
        try:
            queue.put(make_reply(model, messages, example, run_batch(model, [example], settings, watch)[0]))
        except BaseException as error:  # handed to the reader's thread
            queue.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        return (yield from _read_pieces(queue, model.frontend))
    finally:
        halted.set()
        thread.join()


def _read_pieces(queue: SimpleQueue[Any], frontend: Any) -> Generator[str, None, Reply]:
    shown = ""
    while True:
        item = queue.get()
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Reply):
            if item.text.startswith(shown) and len(item.text) > len(shown):
                yield item.text[len(shown) :]
            return item
        text = settled_text(frontend.template, frontend.tokenizer.decode(item))
        if text.startswith(shown) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text


def settled_text(template: Template, text: str) -> str:
    """The part of a growing answer that no later token can change.

    Held back: half of a character (decoded as U+FFFD), the beginning of a stop string, white space at the end.
    """
    text = text.rstrip("\ufffd")
    for mark in template.stop.strings:
        for length in range(len(mark) - 1, 0, -1):
            if text.endswith(mark[:length]):
                text = text[:-length]
                break
    return template.clean_answer(text)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """A scope with its own random state, so that a seed changes nothing outside."""
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
