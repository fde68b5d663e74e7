"""The running rows of one adapter: their cache, and one token more for each of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlcore.batch import collate, cut_pixels
from vlcore.prefix import Prefix, Start
from vlcore.serve.job import Job
from vlcore.serve.row import Row
from vlcore.serve.shelf import Shelf

if TYPE_CHECKING:
    import torch

    from vlcore.model import VLModel

LOG = logging.getLogger("vlcore.serve")
#: Least part of a prompt that must be known for it to be read alone, behind that, and not together with others.
WORTH = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """Prompts that are read at once: a batch of them, or one behind the positions that a prefix knows of it."""

    jobs: tuple[Job, ...]
    prefix: Prefix | None = None
    known: int = 0

    @property
    def singles(self) -> tuple[Reading, ...]:
        """Its prompts apart from each other, nothing known of them."""
        return tuple(Reading((job,)) for job in self.jobs)


class Lane:
    """Rows that are computed together. Its model must be switched to their adapter before it is used.

    Args:
        model: the model.
        shelf: where what rows computed is kept.
        adapter: PEFT's name of the adapter.
    """

    def __init__(self, model: VLModel, shelf: Shelf, adapter: str | None = None) -> None:
        self.model, self.shelf, self.adapter = model, shelf, adapter
        module: Any = model.module
        self.config = module.config.get_text_config(decoder=True)
        self.rows: list[Row] = []
        self.cache: Any = None

    def list_readings(self, jobs: Sequence[Job]) -> Iterator[Reading]:
        """How prompts are read: those that begin as an earlier conversation behind it, the others as one batch."""
        fresh = []
        for job in jobs:
            prefix, known = self.shelf.find(self.adapter, job.passage) if job.passage else (None, 0)
            if prefix is not None and known >= WORTH * len(job.example):
                yield Reading((job,), prefix, known)
            else:
                fresh.append(job)
        if fresh:
            yield Reading(tuple(fresh))

    def read(self, reading: Reading) -> None:
        """Reads prompts and lets their rows run with the others; each gets its first token.

        Raises:
            Exception: whatever the model raises; the rows that ran before are untouched.
        """
        if reading.prefix is None:
            self._read_batch(reading.jobs)
        else:
            self._read_behind(reading.jobs[0], reading.prefix, reading.known)

    def _read_batch(self, jobs: Sequence[Job]) -> None:
        from vlcore.serve.cache import new_cache

        pad_id = self.model.frontend.tokenizer.pad_id
        batch = self.model.place(collate([job.example for job in jobs], pad_id, side="left"))
        cache = new_cache(self.config)
        logits = self._compute(cache, **{name: tensor for name, tensor in batch.items() if name != "labels"})
        self._let_run([self._make_row(job) for job in jobs], cache, logits)

    def _read_behind(self, job: Job, prefix: Prefix, known: int) -> None:
        """Reads a prompt whose first positions are known."""
        import torch

        from vlcore.serve.cache import new_cache

        assert job.passage is not None
        cache = new_cache(self.config, prefix.layers, known)
        pixels = cut_pixels(job.example, self.model.frontend.media, job.passage.count_media(known))
        length = len(job.example)
        tracks = {name: track[..., None, :] for name, track in job.example.tracks.items()}
        positions = tracks.get("position_ids", torch.arange(length)[None])
        tensors = {
            **tracks,
            "input_ids": torch.tensor([job.example.ids[known:]]),
            "attention_mask": torch.ones(1, length, dtype=torch.long),
            "position_ids": positions[..., known:],
        }
        logits = self._compute(cache, **self.model.place({**tensors, **pixels}))
        self._let_run([self._make_row(job, known)], cache, logits)

    def step(self) -> None:
        """One token for each row; rows that end leave.

        Raises:
            Exception: whatever the model raises.
        """
        import torch

        device = self.model.device
        width = self.cache.get_seq_length() + 1
        lengths = torch.tensor([[len(row)] for row in self.rows], device=device)
        places = torch.arange(width, device=device)
        logits = self._compute(
            self.cache,
            input_ids=torch.tensor([[row.ids[-1]] for row in self.rows], device=device),
            attention_mask=(places >= width - lengths).long(),
            position_ids=torch.stack([row.position for row in self.rows], dim=-2).to(device),
        )
        advance(self.rows, logits)
        self.rows, self.cache = self._keep_running(self.rows, self.cache)

    def drop_left(self) -> None:
        """Lets go of rows whose client has left."""
        for row in self.rows:
            row.ended |= row.job.left.is_set()
        self.rows, self.cache = self._keep_running(self.rows, self.cache)

    def fail(self, error: Exception) -> None:
        """Ends every row with an error."""
        for row in self.rows:
            row.fail(error)
        self.rows, self.cache = [], None

    def _make_row(self, job: Job, cached: int = 0) -> Row:
        return Row(job, self.model.frontend.tokenizer, self.model.checkpoint.family.penalised, cached)

    def _compute(self, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        """Logits behind the last position, (rows, vocabulary)."""
        import torch

        module: Any = self.model.module
        with torch.no_grad():
            logits: torch.Tensor = module(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1]

    def _let_run(self, rows: list[Row], cache: Any, logits: torch.Tensor) -> None:
        """Gives new rows their first token and puts those that go on behind the running ones."""
        from vlcore.serve.cache import join_caches

        advance(rows, logits)
        rows, cache = self._keep_running(rows, cache)
        if rows and self.rows:
            join_caches(self.cache, cache)
        elif rows:
            self.cache = cache
        self.rows = [*self.rows, *rows]

    def _keep_running(self, rows: list[Row], cache: Any) -> tuple[list[Row], Any]:
        """The rows that have not ended and their cache; what the others computed goes to the shelf."""
        from vlcore.serve.cache import keep_rows

        running = [number for number, row in enumerate(rows) if not row.ended]
        if len(running) == len(rows):
            return rows, cache
        for number, row in enumerate(rows):
            if row.ended and row.sound and row.job.passage and self.shelf.limit:
                self._put_away(row, cache, number)
        if running:
            # The last token of a row is not in the cache yet.
            keep_rows(cache, running, max(len(rows[number]) for number in running) - 1)
        return [rows[number] for number in running], cache if running else None

    def _put_away(self, row: Row, cache: Any, number: int) -> None:
        from vlcore.serve.cache import take_row

        assert row.job.passage is not None
        prefix = Prefix(self.model)
        prefix.keep(Start(row.job.passage, 0, take_row(cache, number, len(row) - 1)), row.ids)
        self.shelf.add(self.adapter, prefix)


def advance(rows: Sequence[Row], logits: torch.Tensor) -> None:
    """Gives each row its next token; a row for which none can be chosen fails alone."""
    likeliest = logits.argmax(-1).tolist()
    for number, row in enumerate(rows):
        try:
            row.take(likeliest[number] if row.greedy else row.choose(logits[number : number + 1]))
        except Exception as error:
            LOG.exception("no token can be chosen")
            row.fail(error)
