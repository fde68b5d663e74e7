"""Answers: alone, in batches, streamed, and with what an earlier turn has computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import GenerateConfig
from vlcore.generate import Pieces, run_batch, stream_answer
from vlcore.testing.numbers import TOLERANCE, differ
from vlcore.testing.outcome import Fault, NotApplicable
from vlcore.testing.subject import TEXTS

if TYPE_CHECKING:
    import torch

    from vlcore.testing.subject import Subject

#: Greedy, and as long as a tiny model needs to tell whether something is wrong.
SETTINGS = GenerateConfig(max_new_tokens=6, temperature=0, repetition_penalty=1.0)


def check_answers(subject: Subject) -> None:
    """An answer is the same alone and in a batch, and streamed pieces make the whole."""
    model, names = subject.model, list(subject.examples)
    together = run_batch(model, [subject.examples[name] for name in names], SETTINGS)
    for name, ids in zip(names, together, strict=True):
        (alone,) = run_batch(model, [subject.examples[name]], SETTINGS)
        if ids != alone:
            raise Fault(f"the answer to a question ({name})", f"in a batch it is {list(ids)}, alone {list(alone)}",
                        "prepare inputs of generate() row by row, and hand attention_mask on")
    for talk in subject.talks[:2]:
        streamed: list[str] = []
        reply = read_stream(stream_answer(model, talk.question, SETTINGS), streamed)
        # How much a stream shows at once depends on the time; token by token shows most.
        pieces = Pieces(model.frontend)
        slowly = [*map(pieces.add, reply.token_ids), pieces.close(reply.text)]
        for text in map("".join, (streamed, slowly)):
            if text != reply.text:
                raise Fault(f"the streamed answer to a question ({talk.name})",
                            f"its pieces make {text!r}, the answer is {reply.text!r}",
                            "let clean_answer() and decode() of a longer answer begin with those of a shorter one")


def read_stream(stream: Iterator[str], pieces: list[str]) -> Any:
    """The reply at the end of a stream; its pieces are put into a list."""
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return end.value


def check_reuse(subject: Subject) -> None:
    """A session that computes only what is new has the scores and answers of one that computes everything."""
    if "turns" in subject.refused:
        raise NotApplicable(f"the model has no talks ({subject.refused['turns']})")
    model = subject.model
    session, reused = model.session(), 0
    for text, pictures in list_turns(subject):
        with watch_scores(model.module) as kept:
            reply = session.send(text, pictures, SETTINGS)
        with watch_scores(model.module) as fresh:
            (alone,) = model.answer([reply.history[:-1]], SETTINGS)
        gap = max(differ(*pair) for pair in zip(kept, fresh, strict=False))
        if gap > TOLERANCE or reply.token_ids != alone.token_ids:
            raise Fault(f"a question in a session ({text})", f"its scores move by {gap:.2g} of the largest when "
                        f"{reply.usage.cached_tokens} of {reply.usage.prompt_tokens} positions are not computed again",
                        "give rotation_at() to a model whose rotary embeddings depend on the length of the prompt, and "
                        "keep no other state between calls")
        reused += reply.usage.cached_tokens
    if not reused:
        raise NotApplicable("nothing of this model is reused")


def list_turns(subject: Subject) -> Iterator[tuple[str, Sequence[Path]]]:
    """The questions of a session and their pictures; the last one has a picture where a later turn may."""
    later = subject.pictures[1:2] if "later picture" not in subject.refused else ()
    yield from ((TEXTS[2], subject.pictures[:1]), (TEXTS[6], ()), (TEXTS[7], later))


@contextmanager
def watch_scores(module: Any) -> Iterator[list[torch.Tensor]]:
    """A scope that notes the scores of the last position, (vocabulary,), each time a model of one row is called."""
    seen: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda _, inputs, output: seen.append(output.logits[0, -1].clone()))
    try:
        yield seen
    finally:
        hook.remove()


