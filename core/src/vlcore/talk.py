"""A talk: turns that are remembered."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from vlcore.config import RELEASE_SETTINGS, GenerateConfig
from vlcore.errors import UsageError
from vlcore.generate import Reply, answer_one, stream_answer
from vlcore.messages import Message, user
from vlcore.prefix import Prefix

if TYPE_CHECKING:
    from vlcore.model import VLModel


class Session:
    """A conversation with a model. A turn that fails leaves it as it was.

    At each turn only what is new is computed: tokens and media whose keys and values the session has kept from
    earlier turns are not computed again, unless beams are searched (`num_beams` above 1).

    Attributes:
        model: the model that answers.
        messages: the turns so far, the system text first when there is one.
        max_length: longest prompt in tokens; above it the oldest turns are forgotten, with a warning. 0 is no
            limit.
        prefix: what was computed of them, in the memory of the model's device.
    """

    def __init__(self, model: VLModel, messages: Sequence[Message] = (), max_length: int = 0) -> None:
        self.model, self.messages, self.max_length = model, tuple(messages), max_length
        self.prefix = Prefix(model)

    def send(
        self,
        text: str,
        images: Sequence[Any] = (),
        settings: GenerateConfig = RELEASE_SETTINGS,
        videos: Sequence[Any] = (),
    ) -> Reply:
        """The answer to the next question; arguments as for `VLModel.chat`."""
        messages = self._fit((*self.messages, user(text, images, videos)))
        return self._remember(answer_one(self.model, messages, settings, self.prefix))

    def stream(
        self,
        text: str,
        images: Sequence[Any] = (),
        settings: GenerateConfig = RELEASE_SETTINGS,
        videos: Sequence[Any] = (),
    ) -> Generator[str, None, Reply]:
        """The answer to the next question piece by piece."""
        return self.stream_message(user(text, images, videos), settings)

    def stream_message(
        self, message: Message, settings: GenerateConfig = RELEASE_SETTINGS
    ) -> Generator[str, None, Reply]:
        """The answer to a user's message piece by piece; the turn is remembered when it is complete."""
        messages = self._fit((*self.messages, message))
        reply = yield from stream_answer(self.model, messages, settings, self.prefix)
        return self._remember(reply)

    def stream_without_adapter(self, settings: GenerateConfig = RELEASE_SETTINGS) -> Generator[str, None, Reply]:
        """What the model alone answers to the last question, piece by piece; nothing of it is remembered.

        Raises:
            UsageError: when the model has no adapter, or nothing has been asked.
        """
        if not self.messages or self.messages[-1].role != "assistant":
            raise UsageError("the last question", "nothing has been asked yet", "ask something first")
        with self.model.without_adapter():
            # What was computed with the adapter is of no use here.
            return (yield from stream_answer(self.model, self.messages[:-1], settings))

    def clear(self) -> None:
        """Forgets all turns but the system text, and frees what was computed."""
        self.prefix.clear()
        self.messages = tuple(m for m in self.messages if m.role == "system")

    def _fit(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages, URLs fetched and videos sampled, without the oldest turns that do not fit into `max_length`."""
        kept = self.model.frontend.fetch(messages)
        while self.max_length and len(self.model.frontend.plan(kept)) > self.max_length:
            first = 1 if kept[0].role == "system" else 0
            if len(kept) - first < 3:
                raise UsageError(
                    f"a question of {len(self.model.frontend.plan(kept))} tokens",
                    f"max_length is {self.max_length}",
                    "shorten it, send fewer or smaller images, or raise max_length",
                )
            warnings.warn(f"the oldest turn is forgotten: the talk exceeds max_length {self.max_length}", stacklevel=3)
            kept = (*kept[:first], *kept[first + 2 :])
        return kept

    def _remember(self, reply: Reply) -> Reply:
        self.messages = reply.history
        return reply
