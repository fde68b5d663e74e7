"""The validation rows answered while training: figures of the answers, the answers themselves, and a sheet of some.

Each process answers its share and learns what the others found, so that all of them see the same figures.
"""

from __future__ import annotations

import json
import logging
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.budget import Reduction, fit, reduce
from vlcore.config import GenerateConfig, SftConfig
from vlcore.errors import DataError, VlcoreError
from vlcore.evaluate import name_figures, save_figures
from vlcore.forecast import check_answered
from vlcore.generate import make_reply, run_batch
from vlcore.messages import Message, user, write_message
from vlcore.metrics import Facts, Figures, Metric, RowScores, measure_row, summarise
from vlcore.model import VLModel
from vlcore.train.data import Examples, add_line, name_fault
from vlcore.train.divide import is_divided
from vlcore.train.ranks import Place
from vlcore.train.sheet import Entry, show_media, write_sheet
from vlcore.train.stock import write_fault
from vlcore.worklist import split_label

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from vlcore.batch import Example
    from vlcore.generate import Reply
    from vlcore.model import Frontend

_log = logging.getLogger(__name__)


class Learning(VLModel):
    """A model while it is trained. Divided weights do not tell where it computes, so that is given."""

    def __init__(self, frontend: Frontend, module: PreTrainedModel, device: torch.device) -> None:
        super().__init__(frontend, module)
        self.place_of_work = device

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.place_of_work


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is answered at each evaluation, and where it is written.

    Attributes:
        model: the model as it is trained.
        examples: the validation rows.
        metrics: what the answers are held to.
        config: how many rows are answered, how many at once, how long the answers may be.
        place: this process.
        folder: the run's folder.
    """

    model: Learning
    examples: Examples
    metrics: tuple[Metric, ...]
    config: SftConfig
    place: Place
    folder: Path

    @property
    def count(self) -> int:
        """How many rows are answered."""
        return min(len(self.examples), self.config.predict_limit or len(self.examples))

    @property
    def facts(self) -> Facts:
        """What metrics may know."""
        return Facts(grounding=self.model.checkpoint.family.grounding)

    def __call__(self, step: int) -> dict[str, float]:
        """Answers the rows and writes them down; all processes call this together.

        Args:
            step: how far the training is.

        Returns:
            The figures by the metrics' names, without those that no row could be scored by.

        Raises:
            DataError: for a row that cannot be used, unless such rows may be skipped.
        """
        with prepare_answers(self.model.module):
            share = list(answer_share(self))
        outcomes = sorted(chain(*self.place.gather(share)), key=lambda outcome: outcome.index)
        for outcome in outcomes:
            if outcome.fault and not self.examples.may_skip(outcome.fault):
                raise outcome.fault
        figures = summarise(self.metrics, [outcome.scores for outcome in outcomes if outcome.scores])
        if self.place.is_first:
            write_answers(self, outcomes, figures, self.folder / "answers" / f"step-{step}.jsonl")
            with hush_fonts():
                write_sheet(make_entries(self, outcomes), f"step {step}", self.folder / "sheets" / f"step-{step}")
        return {name: figure.value for name, figure in figures.metrics.items() if figure.value is not None}


@dataclass(frozen=True, slots=True)
class Asked:
    """A row ready to be answered: its place among the rows, conversation, label, and what the model is fed."""

    index: int
    messages: tuple[Message, ...]
    label: str
    example: Example


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a row.

    Attributes:
        index: its place among the rows.
        line: its line in the file of answers.
        scores: what the answer is worth; None when there is none.
        fault: why there is none.
        cut: whether the answer ended at its longest.
    """

    index: int
    line: dict[str, Any]
    scores: RowScores | None = None
    fault: DataError | None = None
    cut: bool = False


def answer_share(evaluation: Evaluation) -> Iterator[Outcome]:
    """The outcomes of this process's rows.

    Where weights are divided among the processes, all of them go through the same parts of the model as often: each
    makes as many batches, and each batch has a picture.
    """
    from tqdm import tqdm

    place, count, size = evaluation.place, evaluation.count, evaluation.config.eval_batch_size
    mine = range(place.rank, count, place.world)
    largest = -(-count // place.world)
    filler = make_filler(evaluation.model.frontend) if place.world > 1 and is_divided(evaluation.config) else None
    for at in tqdm(range(0, largest, size), desc="answers", leave=False, dynamic_ncols=True):
        yield from answer_batch(evaluation, mine[at : at + size], filler)


def answer_batch(evaluation: Evaluation, indices: Sequence[int], filler: Example | None) -> Iterator[Outcome]:
    """The outcomes of a few rows, answered as one batch.

    Args:
        evaluation: model, rows and settings.
        indices: which rows; may be empty.
        filler: joins the batch when none of the rows has a picture; its answer is thrown away.
    """
    settings = GenerateConfig(max_new_tokens=evaluation.config.max_new_tokens, temperature=0.0)
    asked = []
    for index in indices:
        taken = ask(evaluation.examples, index)
        if isinstance(taken, Outcome):
            yield taken
        else:
            asked.append(taken)
    batch = [row.example for row in asked]
    if filler and not any(example.pixels for example in batch):
        batch.append(filler)
    answers = run_batch(evaluation.model, batch, settings) if batch else []
    for row, ids in zip(asked, answers, strict=False):
        yield score(evaluation, row, make_reply(evaluation.model, row.messages, row.example, ids))


def ask(examples: Examples, index: int) -> Asked | Outcome:
    """A row as it is asked, reduced to fit as for the loss; its outcome when it cannot be."""
    try:
        row = examples.rows[index]
        check_answered(row)
        taken = take_away(examples, row.messages, index)
        messages, label = split_label(taken.messages)
        return Asked(index, messages, label or "", examples.frontend.encode(messages, **taken.options))
    except (VlcoreError, OSError) as error:
        position = examples.rows.locate(index)
        fault = name_fault(position, error)
        if examples.skipped and examples.may_skip(fault):
            add_line(examples.skipped, write_fault(fault))
        return Outcome(index, {"row": index, "error": str(fault)}, fault=fault)


def take_away(examples: Examples, messages: Sequence[Message], index: int) -> Reduction:
    """A conversation with as much taken away as was found before the run, or, without a forecast, as is found now."""
    config = examples.config
    if examples.lengths is None and config.max_length:
        return fit(examples.frontend, messages, config.max_length, config.on_overflow,
                   train=True, loss_on=config.loss_on)[0]
    step = 0 if examples.steps is None else int(examples.steps[index])
    return reduce(examples.frontend, messages, config.on_overflow, step)


def score(evaluation: Evaluation, row: Asked, reply: Reply) -> Outcome:
    """The outcome of a row that was answered; its line is that of `vlcore infer`, with the place of the row."""
    text = reply.text.strip()
    scores = measure_row(evaluation.metrics, text, row.label, evaluation.facts)
    position = evaluation.examples.rows.locate(row.index)
    line: dict[str, Any] = {"row": row.index, "response": text, "label": row.label}
    line |= {"scores": scores.values} if evaluation.metrics else {}
    line |= {"messages": list(map(write_message, row.messages)), "source": str(position.source), "line": position.line}
    return Outcome(row.index, line, scores, cut=reply.finish_reason == "length")


def make_filler(frontend: Frontend) -> Example:
    """A question about a black picture."""
    from PIL import Image

    return frontend.encode([user("?", [Image.new("RGB", (28, 28))])])


def write_answers(evaluation: Evaluation, outcomes: Sequence[Outcome], figures: Figures, path: Path) -> None:
    """Writes a line a row, and the figures with their intervals beside it, renamed into place."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}")
    with part.open("w", encoding="utf8", errors="backslashreplace") as file:
        file.writelines(json.dumps(outcome.line, ensure_ascii=False) + "\n" for outcome in outcomes)
    part.replace(path)
    if evaluation.metrics:
        save_figures(figures, name_figures(path))
    if cut := sum(outcome.cut for outcome in outcomes):
        _log.info("%d of %d answers were cut at their longest; --max_new_tokens says how long", cut, len(outcomes))


def make_entries(evaluation: Evaluation, outcomes: Sequence[Outcome]) -> list[Entry]:
    """The first answered rows for the sheet."""
    entries = []
    answered = [outcome for outcome in outcomes if outcome.scores is not None]
    for outcome in answered[: evaluation.config.sheet_rows]:
        assert outcome.scores is not None
        messages = split_label(evaluation.examples.rows[outcome.index].messages)[0]
        expected, answer = outcome.line["label"], outcome.line["response"]
        shown = tuple(show_media(evaluation.model.frontend, messages, expected, answer))
        good = rate(evaluation.metrics, outcome.scores)
        entries.append(Entry(shown, messages[-1].text.strip(), expected, answer, outcome.scores.values, good))
    return entries


def rate(metrics: Sequence[Metric], scores: RowScores) -> float | None:
    """How good an answer is, from 0 to 1: the mean over the metrics; None when none could be asked."""
    known = [(metric, value) for metric in metrics if (value := scores.values.get(metric.name)) is not None]
    values = [value if metric.greater_is_better else 1 - value for metric, value in known]
    return sum(values) / len(values) if values else None


@contextmanager
def prepare_answers(module: Any) -> Iterator[None]:
    """A scope in which answers follow the call and the family alone, not files that the release came with.

    A model that FSDP divides is told so, for transformers to keep all processes generating until the last is done;
    and its outermost weights, which adapters are around, are made whole for an answer as they are for a forward.
    """
    from peft import PeftModel
    from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
    from transformers import GenerationConfig

    base: Any = module.get_base_model() if isinstance(module, PeftModel) else module
    is_shared: bool = isinstance(module, FSDPModule)
    if is_shared:
        base._is_fsdp_managed_module = True
    if is_shared and base is not module and "generate" not in vars(module):
        register_fsdp_forward_method(module, "generate")
    before, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield
    finally:
        base.generation_config = before


@contextmanager
def hush_fonts() -> Iterator[None]:
    """A scope whose warnings are lines of the log: models say signs that no font has, and the page has all of them."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in said):
        _log.info(text)


@contextmanager
def keep_random() -> Iterator[None]:
    """A scope that leaves all random states as they were."""
    import numpy
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            numpy.random.set_state(states[1])
