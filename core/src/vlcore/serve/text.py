"""The text of an answer with the strings that a client stops at, whole or still growing."""

from __future__ import annotations

from collections.abc import Sequence

from vlcore.generate import settled_text
from vlcore.model import Frontend


def finish_text(frontend: Frontend, ids: Sequence[int], stops: Sequence[str]) -> str:
    """The text of an answer up to the first of the stops, which is no part of it."""
    return frontend.template.clean_answer(cut_at(frontend.tokenizer.decode(ids), stops))


def grow_text(frontend: Frontend, text: str, stops: Sequence[str]) -> str:
    """The part of a growing answer that no later token can change; see `generate.settled_text`."""
    text = cut_at(text, stops).rstrip("\ufffd")
    held = max((hold_back(text, stop) for stop in stops), default=0)
    return settled_text(frontend.template, text[: len(text) - held])


def cut_at(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of some strings."""
    found = [text.index(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else text


def hold_back(text: str, stop: str) -> int:
    """How many signs at the end of a text may be the beginning of a string.

    >>> hold_back("a\\nUs", "\\nUser:")
    3
    """
    return next((length for length in range(len(stop) - 1, 0, -1) if text.endswith(stop[:length])), 0)
