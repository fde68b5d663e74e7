"""The length budget: a conversation that is too long is made to fit, or said not to.

A reduction is a number: step 0 is the conversation as it is, and each further step takes a little more away, so
that a number alone says later what was done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from vlcore.errors import DataError
from vlcore.media import ShrinkingProcessor
from vlcore.messages import Message

if TYPE_CHECKING:
    from vlcore.batch import Layout
    from vlcore.model import Frontend

#: What is done about a conversation that is too long.
OnOverflow = Literal["error", "drop", "shrink", "truncate"]


class Overflow(DataError):
    """A conversation that is too long, whatever may be taken away."""


@dataclass(frozen=True, slots=True)
class Reduction:
    """A conversation with something taken away.

    Attributes:
        messages: the turns that are left.
        options: the family's options that make its media smaller.
        step: how much was taken away; 0 is nothing.
    """

    messages: tuple[Message, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int = 0


def list_reductions(
    frontend: Frontend, messages: Sequence[Message], on_overflow: OnOverflow
) -> Iterator[Reduction]:
    """A conversation as it is, then with ever more taken away, as far as the rule goes.

    `shrink` gives media fewer tiles, then fewer frames, as the family's processor says; `truncate` leaves out the
    oldest question with its answer and its media, the system text and the last question stay. The other rules
    take nothing away.
    """
    yield Reduction(tuple(messages))
    if on_overflow == "shrink" and isinstance(frontend.media, ShrinkingProcessor):
        media = [medium for message in messages for medium in message.media]
        options = frontend.resolve_options(train=messages[-1].role == "assistant")
        for step, smaller in enumerate(frontend.media.list_smaller(media, options), 1):
            yield Reduction(tuple(messages), smaller, step)
    if on_overflow == "truncate":
        for step in range(1, sum(message.role == "user" for message in messages)):
            yield Reduction(drop_turns(messages, step), {}, step)


def reduce(frontend: Frontend, messages: Sequence[Message], on_overflow: OnOverflow, step: int) -> Reduction:
    """A conversation with as much taken away as a step says, which was found earlier.

    Raises:
        DataError: when there is no such step any more.
    """
    if not step:
        return Reduction(tuple(messages))
    found = next(islice(list_reductions(frontend, messages, on_overflow), step, None), None)
    if found is None:
        raise DataError("conversation", f"it cannot be reduced {step} times, as it could before the run",
                        "start again: lengths are taken anew")
    return found


def drop_turns(messages: Sequence[Message], turns: int) -> tuple[Message, ...]:
    """The conversation without its oldest questions and their answers; empty when the last question would go, too.

    >>> from vlcore.messages import make_message
    >>> talk = [make_message(role, role) for role in ("system", "user", "assistant", "user", "assistant")]
    >>> [message.role for message in drop_turns(talk, 1)]
    ['system', 'user', 'assistant']
    """
    kept = [message for message in messages if message.role == "system"]
    questions = [at for at, message in enumerate(messages) if message.role == "user"]
    if turns >= len(questions):
        return ()
    return (*kept, *(message for message in messages[questions[turns] :] if message.role != "system"))


def fit(
    frontend: Frontend, messages: Sequence[Message], max_length: int, on_overflow: OnOverflow, **plan: Any
) -> tuple[Reduction, Layout]:
    """The least reduction of a conversation that has at most `max_length` tokens, and its layout.

    Args:
        frontend: plans the conversation.
        messages: the conversation.
        max_length: tokens; 0 is no limit.
        on_overflow: what may be taken away.
        plan: arguments of `Frontend.plan`, such as `train` and `loss_on`.

    Raises:
        Overflow: when it is too long however much is taken away.
    """
    first = 0
    for reduction in list_reductions(frontend, messages, on_overflow):
        layout = frontend.plan(reduction.messages, **plan, **reduction.options)
        if not max_length or len(layout) <= max_length:
            return reduction, layout
        first = first or len(layout)
    raise explain_overflow(frontend, first, len(layout), max_length, on_overflow)


def explain_overflow(
    frontend: Frontend, length: int, least: int, max_length: int, on_overflow: OnOverflow
) -> Overflow:
    """The error for a conversation of `length` tokens that no reduction brings below `least`."""
    tried = f" ({least} after {on_overflow})" if least < length else ""
    if on_overflow == "shrink" and not isinstance(frontend.media, ShrinkingProcessor):
        tried = " (shrink knows no way to make this model's media smaller)"
    elif on_overflow in ("shrink", "truncate") and not tried:
        tried = f" ({on_overflow} finds nothing to take away)"
    do = "choose another --on_overflow" if on_overflow != "error" else "choose --on_overflow drop, shrink or truncate"
    return Overflow("conversation", f"it has {length} tokens{tried}, max_length is {max_length}",
                    f"raise --max_length, or {do}")
