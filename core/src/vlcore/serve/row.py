"""A row of a running batch: the answer so far, how its next token is chosen, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlcore.serve.job import Ended, Failed, Grown, Job
from vlcore.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

#: transformers samples from so many tokens where nothing is said (`GenerationConfig`), and so does `vlcore infer`.
TOP_K = 50


class Row:
    """A row of a running batch.

    Args:
        job: what is answered.
        tokenizer: the model's.
        penalised: what a repetition penalty looks at, as `ModelFamily.penalised`.
        cached: tokens of the prompt that were computed before.
    """

    def __init__(self, job: Job, tokenizer: Tokenizer, penalised: str = "all", cached: int = 0) -> None:
        self.job, self.tokenizer, self.penalised = job, tokenizer, penalised
        self.ids: list[int] = []
        self.cached = cached
        self.stop_ids = {tokenizer.token_id(name) for name in job.stop.tokens}
        self.processors = make_processors(job.settings)
        self.generator: torch.Generator | None = None
        self.ended = False
        self.sound = True

    def __len__(self) -> int:
        """Tokens of the prompt and the answer."""
        return len(self.job.example) + len(self.ids)

    @property
    def position(self) -> torch.Tensor:
        """Where the last token of the answer stands, (..., 1), on the axes that the prompt's positions have."""
        import torch

        prompt = self.job.example.tracks.get("position_ids")
        last = torch.tensor([len(self.job.example) - 1]) if prompt is None else prompt[..., -1:]
        return last + len(self.ids)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always the next."""
        return not self.processors and not self.job.settings.do_sample

    def choose(self, logits: torch.Tensor) -> int:
        """The next token from the model's logits, (1, vocabulary)."""
        import torch

        scores = logits.float()
        seen = self.ids if self.penalised == "answer" else [*self.job.example.ids, *self.ids]
        # Image positions may hold an id outside the vocabulary; 0 is the unknown token there.
        scores = self.processors(torch.tensor([seen], device=scores.device, dtype=torch.long).clamp(min=0), scores)
        if not self.job.settings.do_sample:
            return int(scores.argmax())
        if self.generator is None:
            self.generator = torch.Generator(scores.device)
            self.generator.seed() if self.job.seed is None else self.generator.manual_seed(self.job.seed)
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self.generator))

    def take(self, token: int) -> None:
        """Adds a token to the answer and tells about it."""
        self.ids.append(token)
        stopped = token in self.stop_ids or find_string(self.tokenizer, self.ids, self.job.stop.strings)
        if stopped or len(self.ids) >= self.job.settings.max_new_tokens:
            self.ended = True
            self._tell(Ended(tuple(self.ids), "stop" if stopped else "length", self.cached))
        elif self.job.stream:
            self._tell(Grown(token))

    def fail(self, error: Exception) -> None:
        """Ends the row with an error."""
        self.ended, self.sound = True, False
        self._tell(Failed(error))

    def _tell(self, event: Grown | Ended | Failed) -> None:
        if not self.job.left.is_set():
            self.job.tell(event)


def make_processors(settings: Any) -> Any:
    """What changes logits before a token is chosen, in transformers' order.

    Args:
        settings: transformers' generation settings as `generate.native_settings` makes them.
    """
    from transformers import (
        LogitsProcessorList,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    made = LogitsProcessorList()
    if settings.repetition_penalty not in (None, 1.0):
        made.append(RepetitionPenaltyLogitsProcessor(float(settings.repetition_penalty)))
    if not settings.do_sample:
        return made
    if settings.temperature not in (None, 1.0):
        made.append(TemperatureLogitsWarper(float(settings.temperature)))
    top_k = TOP_K if settings.top_k is None else settings.top_k
    if top_k:
        made.append(TopKLogitsWarper(top_k))
    if settings.top_p is not None and settings.top_p < 1:
        made.append(TopPLogitsWarper(float(settings.top_p)))
    return made


def find_string(tokenizer: Tokenizer, ids: Sequence[int], strings: Sequence[str]) -> bool:
    """Whether the end of an answer holds one of the strings.

    Each sign has at most four bytes, so a string cannot reach further back than this many tokens.
    """
    if not strings:
        return False
    tail = tokenizer.decode(ids[-4 * max(map(len, strings)) - 4 :])
    return any(string in tail for string in strings)
