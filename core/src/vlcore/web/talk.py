"""The talk of one open page, and the model that all of them share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from vlcore.config import GenerateConfig
from vlcore.errors import UsageError
from vlcore.messages import Message, make_message
from vlcore.serve.engine import make_switch
from vlcore.serve.served import Served
from vlcore.talk import Session
from vlcore.transcript import append_row


class Models:
    """The model and its adapters, which answer one question at a time.

    Attributes:
        served: what can be chosen, by name; the model itself first.
        turn: held by the answer that is being made.
    """

    def __init__(self, served: Mapping[str, Served]) -> None:
        self.served, self.turn = served, asyncio.Lock()
        usable = {name: each.adapter for name, each in served.items() if each.adapter}
        self._switch = make_switch(next(iter(served.values())).model.module, usable)

    def activate(self, name: str) -> None:
        """Makes the model answer with the adapter of a name, or without one; only for who holds `turn`."""
        self._switch(self.served[name].adapter)


class Talk:
    """A conversation with one of the models. Each open page has its own.

    Args:
        models: what can be asked.
        system: a system text instead of the model's.
        max_length: longest prompt in tokens; 0 is no limit.
    """

    def __init__(self, models: Models, system: str = "", max_length: int = 0) -> None:
        self.models, self.name, self.max_length = models, next(iter(models.served)), max_length
        self.session = models.served[self.name].model.session(system, max_length)
        self.answering = self._stopped = False

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns so far, the system text first when there is one."""
        return self.session.messages

    def choose(self, name: str) -> None:
        """Lets another model answer from now on; the turns stay.

        Raises:
            UsageError: while an answer is being made.
        """
        self._refuse_answering()
        self.session = Session(self.models.served[name].model, self.messages, self.max_length)
        self.name = name

    async def ask(self, question: Message, settings: GenerateConfig, show: Callable[[str], None]) -> bool:
        """Answers a question when it is its turn. An answer that is stopped is remembered as far as it went.

        Args:
            question: the user's turn.
            settings: how to generate.
            show: is handed the answer so far whenever it has grown.

        Returns:
            Whether there is an answer: False when it was stopped before its first word.

        Raises:
            VlcoreError: as `Session.stream_message`; the talk stays as it was.
        """
        self._refuse_answering()
        self.answering, self._stopped = True, False
        try:
            async with self.models.turn:
                return not self._stopped and await self._stream(question, settings, show)
        finally:
            self.answering = False

    async def _stream(self, question: Message, settings: GenerateConfig, show: Callable[[str], None]) -> bool:
        before, said = self.messages, ""
        await asyncio.to_thread(self.models.activate, self.name)
        pieces = self.session.stream_message(question, settings)
        try:
            while not self._stopped:
                piece = await asyncio.to_thread(next, pieces, None)
                if piece is None:
                    return True
                said += piece
                show(said)
        finally:
            await asyncio.to_thread(pieces.close)
        if said:
            self.session.messages = (*before, question, make_message("assistant", said))
        return bool(said)

    async def ask_again(self, settings: GenerateConfig, show: Callable[[str], None]) -> bool:
        """Answers the last question anew; arguments and errors as for `ask`. Without an answer the old one stays.

        Raises:
            UsageError: when nothing has been asked.
        """
        self._refuse_answering()
        before = self.messages
        if not before or before[-1].role != "assistant":
            raise UsageError("another answer", "nothing has been asked yet", "ask something first")
        self.session.messages, done = before[:-2], False
        try:
            done = await self.ask(before[-2], settings, show)
        finally:
            if not done:
                self.session.messages = before
        return done

    def stop(self) -> None:
        """Ends the answer that is being made, or that waits for its turn."""
        self._stopped = True

    def clear(self) -> None:
        """Forgets all turns but the system text.

        Raises:
            UsageError: while an answer is being made.
        """
        self._refuse_answering()
        self.session.clear()

    def write(self) -> bytes:
        """The talk as a row to train on, one line of JSON; pictures are data URLs in it.

        Raises:
            UsageError: when nothing has been answered.
        """
        with TemporaryDirectory() as folder:
            path = Path(folder) / "talk.jsonl"
            append_row(path, self.messages)
            return path.read_bytes()

    def _refuse_answering(self) -> None:
        if self.answering:
            raise UsageError("the talk", "an answer is being made", "wait for it or stop it")
