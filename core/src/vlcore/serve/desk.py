"""The way of one request: from its body to a job of the engine, and from the job's events to an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from threading import Lock

from vlcore.batch import Example, Layout, load_pixels
from vlcore.config import GenerateConfig
from vlcore.detokenizer import Detokenizer
from vlcore.errors import show
from vlcore.generate import Usage, native_settings
from vlcore.messages import Message
from vlcore.prefix import Passage, read_passage
from vlcore.serve.engine import Engine
from vlcore.serve.faults import RequestError
from vlcore.serve.job import Ended, Event, Failed, Grown, Job
from vlcore.serve.pictures import PictureReader
from vlcore.serve.protocol import Request, find_idle
from vlcore.serve.served import Served
from vlcore.serve.settings import describe_unknown
from vlcore.serve.text import finish_text, grow_text


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its text, why it ended, and its tokens."""

    text: str
    reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job that was handed in, and what it says.

    Attributes:
        served: the model.
        request: what was asked.
        job: the engine's job.
        events: its events, as they come.
        notes: fields of the request that have no effect.
    """

    served: Served
    request: Request
    job: Job
    events: asyncio.Queue[Event]
    notes: tuple[str, ...]

    async def read_pieces(self) -> AsyncIterator[str | Answer]:
        """The answer piece by piece, then the whole of it; the pieces joined are its text.

        Raises:
            Exception: what the engine failed with.
        """
        frontend, stops, shown = self.served.model.frontend, self.request.stop, ""
        written = Detokenizer(frontend.tokenizer)
        while True:
            event = await self.events.get()
            if isinstance(event, Failed):
                raise event.error
            text = (grow_text(frontend, written.add(event.token), stops) if isinstance(event, Grown)
                    else finish_text(frontend, event.ids, stops))
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text
            if isinstance(event, Ended):
                yield Answer(text, event.reason, self._count(event))
                return

    async def read_answer(self) -> Answer:
        """The whole answer; errors as of `read_pieces`."""
        async for piece in self.read_pieces():
            if isinstance(piece, Answer):
                return piece
        raise AssertionError("an answer has an end")

    def _count(self, event: Ended) -> Usage:
        example = self.job.example
        return Usage(len(example), sum(plan.tokens for plan in example.layout.plans), len(event.ids), event.cached)


@dataclass(frozen=True, slots=True)
class Desk:
    """Takes requests.

    Attributes:
        served: the models by name.
        engine: what answers.
        pictures: what reads pictures.
        pool: where prompts are encoded, off the event loop.
        max_length: longest prompt and answer together in tokens; 0 is no limit.
        lock: held while text is tokenized, for tokenizers that are not made for several threads.
    """

    served: Mapping[str, Served]
    engine: Engine
    pictures: PictureReader
    pool: Executor
    max_length: int
    lock: Lock

    async def take(self, request: Request) -> Ticket:
        """Encodes a request and hands it to the engine.

        Raises:
            RequestError: for an unknown model, a prompt that is too long, or a server that is stopping.
            VlcoreError: for conversations and pictures that cannot be used.
        """
        if request.model not in self.served:
            raise RequestError(f"model {show(request.model)}", "it is not served here",
                               describe_unknown(request.model, tuple(self.served)),
                               status=404, param="model", code="model_not_found")
        served = self.served[request.model]
        messages = await self.pictures.read_messages(request.turns)
        loop = asyncio.get_running_loop()
        example, passage = await loop.run_in_executor(self.pool, self._encode, served, messages, request.settings)
        settings = native_settings(served.model, request.settings)
        room = self.max_length - len(example) if self.max_length else settings.max_new_tokens
        settings.max_new_tokens = min(settings.max_new_tokens, room)
        events: asyncio.Queue[Event] = asyncio.Queue()

        def tell(event: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        stop = served.model.frontend.template.stop
        job = Job(example, settings, replace(stop, strings=(*stop.strings, *request.stop)), tell, served.adapter,
                  request.settings.seed, request.stream, passage)
        self.engine.submit(job)
        idle = () if settings.do_sample else find_idle(request.settings)
        return Ticket(served, request, job, events, (*request.notes, *idle))

    def _encode(
        self, served: Served, messages: tuple[Message, ...], settings: GenerateConfig
    ) -> tuple[Example, Passage]:
        """The prompt, its length checked before its pictures are decoded, and what it is compared by."""
        frontend = served.model.frontend
        with self.lock:
            layout = frontend.plan(messages)
        self._check_length(layout, settings.max_new_tokens or 1, asked=settings.max_new_tokens is not None)
        return load_pixels(layout, frontend.media), read_passage(served.model, layout)

    def _check_length(self, layout: Layout, more: int, asked: bool) -> None:
        if not self.max_length or len(layout) + more <= self.max_length:
            return
        media = sum(plan.tokens for plan in layout.plans)
        wanted = f" and max_tokens {more}" if asked else ""
        raise RequestError(
            f"a prompt of {len(layout)} tokens, {media} of them pictures{wanted}",
            f"prompt and answer together may have {self.max_length}",
            "shorten it, send fewer or smaller pictures, or ask for fewer tokens",
            param="messages", code="context_length_exceeded")
