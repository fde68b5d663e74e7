"""What the engine is asked, and what it tells meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event as Flag
from typing import Any, Literal

from vlcore.batch import Example
from vlcore.prefix import Passage
from vlcore.template import Stop


@dataclass(frozen=True, slots=True)
class Grown:
    """One token more of an answer."""

    token: int


@dataclass(frozen=True, slots=True)
class Ended:
    """All ids of an answer, and why there are no more; `cached` tokens of its prompt were not computed again."""

    ids: tuple[int, ...]
    reason: Literal["stop", "length"]
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """An answer that will not come."""

    error: Exception


Event = Grown | Ended | Failed


@dataclass(frozen=True, eq=False)
class Job:
    """An answer to be made.

    Attributes:
        example: the prompt, encoded for inference.
        settings: transformers' generation settings; `max_new_tokens` is set.
        stop: what ends the answer.
        tell: called with each event from the engine's thread; must not block. `Ended` or `Failed` is the last.
        adapter: PEFT's name of the adapter, None for the model without one.
        seed: of the sampling.
        stream: whether `Grown` is told after each token.
        passage: what the prompt is compared by with earlier ones; None to compute all of it.
        left: set by whoever does not want the answer any more; nothing is told afterwards.
    """

    example: Example
    settings: Any
    stop: Stop
    tell: Callable[[Event], None]
    adapter: str | None = None
    seed: int | None = None
    stream: bool = False
    passage: Passage | None = None
    left: Flag = field(default_factory=Flag)
