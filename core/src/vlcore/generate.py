"""Generation: conversations in, replies out, in batches or streamed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from queue import SimpleQueue
from threading import Event, Thread
from time import sleep
from typing import TYPE_CHECKING, Any, Literal

from vlcore.batch import Example, collate, load_pixels
from vlcore.config import RELEASE_SETTINGS, GenerateConfig
from vlcore.detokenizer import Detokenizer
from vlcore.messages import Message, make_message
from vlcore.prefix import Prefix, Start
from vlcore.template import Stop, Template
from vlcore.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import DynamicCache

    from vlcore.model import Frontend, VLModel

#: Used where neither the call nor the family says anything: greedy, up to this many tokens.
DEFAULTS: dict[str, Any] = {"max_new_tokens": 1024, "temperature": 0.0}
#: A compiled step's cache has a multiple of this many positions.
CACHE_STEP = 1024
#: Seconds between two pieces of a streamed answer.
PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request: the prompt's, those of them that stand for media, and the answer's.

    `cached_tokens` of the prompt's had been computed by an earlier request.
    """

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


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


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to answer, ready for the model.

    Attributes:
        messages: the conversation.
        example: all its ids, and the pixels that are not computed yet.
        settings: how to answer.
        prefix: where what is computed is kept; None for nowhere.
        start: what of the prompt is computed already, with a prefix.
    """

    messages: tuple[Message, ...]
    example: Example
    settings: GenerateConfig
    prefix: Prefix | None = None
    start: Start | None = None

    def run(self, model: VLModel, watch: Callable[[int], bool] | None = None) -> Reply:
        """The reply; `watch` as for `run_batch`."""
        cache = self.start.cache if self.start else None
        (ids,) = run_batch(model, [self.example], self.settings, watch, cache)
        if self.prefix is not None and self.start is not None:
            self.prefix.keep(self.start, ids)
        reply = make_reply(model, self.messages, self.example, ids)
        cached = self.start.length if self.start else 0
        return replace(reply, usage=replace(reply.usage, cached_tokens=cached))


def make_request(
    model: VLModel, messages: Sequence[Message], settings: GenerateConfig, prefix: Prefix | None = None
) -> Request:
    """The request for an answer; media that the prefix has computed are not opened.

    Raises:
        MediaError: for media that cannot be read.
    """
    fetched = model.frontend.fetch(messages)
    layout = model.frontend.plan(fetched)
    start = prefix.start(layout) if prefix is not None and keeps_prefix(settings) else None
    example = load_pixels(layout, model.frontend.media, start.known if start else 0)
    return Request(fetched, example, settings, prefix, start)


def keeps_prefix(settings: GenerateConfig) -> bool:
    """Whether what is computed can be kept: beams would each have keys of their own, and a compiled step its cache."""
    return settings.num_beams == 1 and not settings.compile


def answer_one(
    model: VLModel,
    messages: Sequence[Message],
    settings: GenerateConfig = RELEASE_SETTINGS,
    prefix: Prefix | None = None,
) -> Reply:
    """The reply to a conversation; only what the prefix does not hold is computed."""
    return make_request(model, messages, settings, prefix).run(model)


def run_batch(
    model: VLModel,
    examples: Sequence[Example],
    settings: GenerateConfig,
    watch: Callable[[int], bool] | None = None,
    cache: DynamicCache | None = None,
) -> list[tuple[int, ...]]:
    """Generated ids of each example, cut behind what stopped it.

    Args:
        model: the model.
        examples: encoded for inference.
        settings: how to generate.
        watch: shown each token of the first row; generation ends when it returns True.
        cache: holds the first positions of the one example, whose pixels are those behind them.
    """
    import torch

    from vlcore.cache import start_cache
    from vlcore.decoding import decode, decodes_alone

    tokenizer, stop = model.frontend.tokenizer, model.frontend.template.stop
    batch = model.place(collate(examples, tokenizer.pad_id, side="left"))
    # Positions of a single axis are counted by transformers itself.
    left = {"labels", *(("position_ids",) if batch["position_ids"].ndim < 3 else ())}
    batch = {name: tensor for name, tensor in batch.items() if name not in left}
    start = batch["input_ids"].shape[1]
    criterion = StopCriterion(tokenizer, stop, start, watch)
    chosen = native_settings(model, settings)
    module: Any = model.module
    own = keeps_prefix(settings) and decodes_alone(module)
    if settings.compile:
        # One size serves many prompts, without another compilation.
        chosen.max_cache_len = -(-(start + chosen.max_new_tokens) // CACHE_STEP) * CACHE_STEP
    if keeps_prefix(settings):
        cache = cache or start_cache(module.config.get_text_config(decoder=True))
    # Not in inference mode: what is kept from then, such as tables of rotary embeddings, could not be trained with.
    with torch.no_grad(), _seeded(settings.seed):
        output = module.generate(
            **batch, past_key_values=cache, generation_config=chosen, stopping_criteria=[criterion],
            logits_processor=take_penalty(chosen, start) if model.checkpoint.family.penalised == "answer" else [],
            custom_generate=decode if own else None,
        )
    return [criterion.cut(row, output[row, start:].tolist()) for row in range(len(examples))]


def native_settings(model: VLModel, settings: GenerateConfig) -> Any:
    """transformers' generation settings: the call's values over the family's over the defaults."""
    from transformers import GenerationConfig

    given = {f.name: getattr(settings, f.name) for f in fields(settings) if getattr(settings, f.name) is not None}
    family = model.checkpoint.family
    values = DEFAULTS | dict(family.generation) | given
    values.pop("seed", None)
    if values.pop("compile", False):
        values |= compiled_decoding(model.device)
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


def compiled_decoding(device: torch.device) -> dict[str, Any]:
    """transformers' settings for decoding with a static cache and `torch.compile`."""
    from transformers import CompileConfig

    # Qwen-VL keeps a prompt's rotation with its cache, which a whole graph could not.
    settings: Any = CompileConfig(fullgraph=False, mode="reduce-overhead" if device.type == "cuda" else "default")
    settings._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": settings}


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
        self, tokenizer: Tokenizer, stop: Stop, start: int, watch: Callable[[int], bool] | None = None
    ) -> None:
        self.tokenizer, self.stop, self.start, self.watch = tokenizer, stop, start, watch
        self.stop_ids = {tokenizer.token_id(name) for name in stop.tokens}
        self.ends: dict[int, int] = {}
        # A stop string is short: its bytes cannot reach further back than this many tokens.
        self.reach = 4 * max(map(len, stop.strings)) + 4 if stop.strings else 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Which rows are done, (rows,)."""
        import torch

        rows, length = input_ids.shape
        if self.stop.strings:
            for number, tail in enumerate(input_ids[:, max(self.start, length - self.reach) :].tolist()):
                if number not in self.ends and self._has_string(tail):
                    self.ends[number] = length - self.start
        halt = self.watch is not None and self.watch(int(input_ids[0, -1]))
        return torch.tensor([halt or number in self.ends for number in range(rows)], device=input_ids.device)

    def cut(self, row: int, ids: Sequence[int]) -> tuple[int, ...]:
        """A row's ids up to and with what stopped it; what follows is padding."""
        end = self.ends.get(row, len(ids))
        marks = [at for at, token in enumerate(ids[:end]) if token in self.stop_ids]
        return tuple(ids[: marks[0] + 1] if marks else ids[:end])

    def _has_string(self, tail: Sequence[int]) -> bool:
        text = self.tokenizer.decode(tail)
        return any(string in text for string in self.stop.strings)


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
    model: VLModel,
    messages: Sequence[Message],
    settings: GenerateConfig = RELEASE_SETTINGS,
    prefix: Prefix | None = None,
) -> Generator[str, None, Reply]:
    """The answer to a conversation piece by piece; the pieces joined are the reply's text.

    Leaving the iterator early stops the generation. Only what the prefix does not hold is computed, and what is
    computed is kept in it, of an answer that was left early too.

    Returns:
        The `Reply`, as the generator's return value.
    """
    queue: SimpleQueue[int | Reply | BaseException] = SimpleQueue()
    halted = Event()
    request = make_request(model, messages, settings, prefix)

    def watch(token: int) -> bool:
        queue.put(token)
        return halted.is_set()

    def work() -> None:
        try:
            queue.put(request.run(model, watch))
        except BaseException as error:  # handed to the reader's thread
            queue.put(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        return (yield from read_pieces(queue, model.frontend))
    finally:
        halted.set()
        thread.join()


class Pieces:
    """The text of an answer that grows, as it is handed on piece by piece."""

    def __init__(self, frontend: Frontend) -> None:
        self.template, self.shown, self.written = frontend.template, "", Detokenizer(frontend.tokenizer)

    def add(self, *tokens: int) -> str:
        """What may be shown besides, now that these tokens have come; often nothing."""
        return self.close(settled_text(self.template, self.written.add(*tokens)))

    def close(self, text: str) -> str:
        """What of a text has not been shown; nothing when it does not begin with what has."""
        if not text.startswith(self.shown):
            return ""
        piece, self.shown = text[len(self.shown) :], text
        return piece


def read_pieces(queue: SimpleQueue[Any], frontend: Frontend) -> Generator[str, None, Reply]:
    """The text of tokens that come through a queue, piece by piece, until the reply or an error comes.

    Between two pieces lie some milliseconds: each costs the thread that computes tokens a little of its time.
    """
    pieces = Pieces(frontend)
    while True:
        tokens, end = take_all(queue)
        if isinstance(end, BaseException):
            raise end
        piece = pieces.close(end.text) if end is not None else pieces.add(*tokens)
        if piece:
            yield piece
        if end is not None:
            return end
        sleep(PAUSE)


def take_all(queue: SimpleQueue[Any]) -> tuple[list[int], Reply | BaseException | None]:
    """The tokens that wait in a queue, at least one unless it is the end, and the end when it has come."""
    tokens: list[int] = []
    while not tokens or not queue.empty():
        item = queue.get()
        if not isinstance(item, int):
            return tokens, item
        tokens.append(item)
    return tokens, None


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
