"""Texts that end at a client's strings, growing as they come."""

from __future__ import annotations

import pytest
from vlcore.detokenizer import Detokenizer
from vlcore.model import VLModel
from vlcore.serve.text import cut_at, finish_text, grow_text, hold_back


@pytest.mark.parametrize(("text", "stops", "cut"), [
    ("a b c", ("b", "a b"), ""), ("a b c", ("c", "b"), "a "), ("a", ("x",), "a"), ("a", (), "a"),
])
def test_a_text_ends_at_the_first_of_the_strings(text: str, stops: tuple[str, ...], cut: str) -> None:
    assert cut_at(text, stops) == cut


@pytest.mark.parametrize(("text", "stop", "held"), [("one\nUs", "\nUser:", 3), ("one", "two", 0), ("aa", "aab", 2)])
def test_what_may_begin_a_string_is_held_back(text: str, stop: str, held: int) -> None:
    assert hold_back(text, stop) == held


@pytest.mark.parametrize("stops", [(), ("two",), ("o t", "x"), ("three.",), ("é",)])
def test_growing_texts_only_grow_and_end_as_the_whole(model: VLModel, stops: tuple[str, ...]) -> None:
    frontend = model.frontend
    ids = frontend.tokenizer.encode("One two, naïve é café two three.")
    written, shown = Detokenizer(frontend.tokenizer), ""
    for token in ids:
        text = grow_text(frontend, written.add(token), stops)
        assert text.startswith(shown)
        shown = text
    assert finish_text(frontend, ids, stops).startswith(shown)
    assert not any(stop in shown for stop in stops)
