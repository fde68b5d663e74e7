"""Answers computed together: each is what it is alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from typing import Any

import pytest
import torch
from PIL import Image
from vlcore.config import GenerateConfig
from vlcore.generate import native_settings
from vlcore.messages import Message, user
from vlcore.model import VLModel, load_model
from vlcore.prefix import read_passage
from vlcore.serve.engine import Engine
from vlcore.serve.faults import RequestError
from vlcore.serve.job import Ended, Failed, Grown, Job
from vlcore.serve.lane import Lane
from vlcore.serve.row import make_processors
from vlcore.serve.shelf import Shelf

FAMILIES = {
    "internvl": {"tile": 28, "width": 64, "layers": 2}, "qwen_vl": {"layers": 2},
    "yi_vl": {"width": 56, "layers": 1}, "deepseek_vl": {},
}
TEXTS = ["What is it?"]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VLModel]:
    made: dict[str, VLModel] = {}

    def make(name: str) -> VLModel:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            importlib.import_module(f"vlcore_{name}.tiny").write_tiny(folder, texts=TEXTS, **FAMILIES[name])
            made[name] = load_model(str(folder))
        return made[name]

    return make


def make_conversation(number: int) -> tuple[Message, ...]:
    images = [Image.new("RGB", (40 + 8 * number, 40), (20 * number, 40, 90))] if number % 3 else []
    return (user("What is it? " * (1 + number % 4) + str(number // 2), images),)


@contextmanager
def running(model: VLModel, **settings: Any) -> Iterator[Engine]:
    engine = Engine(model, **settings)
    engine.start()
    yield engine
    engine.close()


class Asker:
    """Hands conversations to an engine and collects what it tells of each."""

    def __init__(self, model: VLModel, engine: Engine) -> None:
        self.model, self.engine = model, engine
        self.told: Queue[tuple[int, Any]] = Queue()
        self.jobs: list[Job] = []

    def ask(self, messages: Sequence[Message], settings: GenerateConfig, known: bool = False, **more: Any) -> Job:
        example = self.model.encode(messages)
        number = len(self.jobs)
        passage = read_passage(self.model, example.layout) if known else None
        job = Job(example, native_settings(self.model, settings), self.model.frontend.template.stop,
                  lambda event: self.told.put((number, event)), seed=settings.seed, passage=passage, **more)
        self.jobs.append(job)
        self.engine.submit(job)
        return job

    def collect(self) -> list[Any]:
        """The last event of each job."""
        ends: dict[int, Any] = {}
        while len(ends) < len(self.jobs):
            number, event = self.told.get(timeout=60)
            if not isinstance(event, Grown):
                assert number not in ends
                ends[number] = event
        return [ends[number] for number in range(len(self.jobs))]


@pytest.mark.parametrize("shelf", [0, 10**8], ids=["computed", "found again"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_a_full_engine_are_those_of_each_conversation_alone(
    family: str, shelf: int, families: Callable[[str], VLModel]
) -> None:
    model = families(family)
    asked = [(make_conversation(n), GenerateConfig(max_new_tokens=1 + n * 5 % 11, temperature=0.0)) for n in range(10)]
    wanted = [model.answer([messages], settings)[0] for messages, settings in asked]
    with running(model, places=4, prefill=120, shelf=Shelf(shelf)) as engine:
        for turn in range(2):
            asker = Asker(model, engine)
            for messages, settings in asked:
                asker.ask(messages, settings, known=True)
            ends = asker.collect()
            assert [end.ids for end in ends] == [reply.token_ids for reply in wanted]
            assert [end.reason for end in ends] == [reply.finish_reason for reply in wanted]
            known = [end.cached > 0 for end in ends]
            assert all(known) if shelf and turn else shelf or not any(known)


def test_the_shelf_keeps_within_its_memory(model: VLModel) -> None:
    shelf = Shelf(60_000)
    with running(model, shelf=shelf) as engine:
        asker = Asker(model, engine)
        for number in range(12):
            asker.ask(make_conversation(number), GenerateConfig(max_new_tokens=4), known=True)
        asker.collect()
    assert 0 < shelf.nbytes <= 60_000


def test_a_seeded_answer_does_not_depend_on_its_neighbours(model: VLModel) -> None:
    chosen = GenerateConfig(max_new_tokens=12, temperature=1.2, top_k=20, top_p=0.9, repetition_penalty=1.2, seed=7)
    answers = []
    for neighbours in (0, 5):
        with running(model) as engine:
            asker = Asker(model, engine)
            asker.ask(make_conversation(1), chosen)
            for number in range(neighbours):
                asker.ask(make_conversation(number), GenerateConfig(max_new_tokens=3 + number, temperature=0.7))
            answers.append(asker.collect()[0].ids)
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 1


@pytest.mark.parametrize("settings", [
    GenerateConfig(temperature=0.0, repetition_penalty=1.3), GenerateConfig(temperature=0.7),
    GenerateConfig(temperature=1.0, top_p=0.5, top_k=0), GenerateConfig(temperature=2.0, top_k=3),
    GenerateConfig(temperature=0.5, repetition_penalty=0.9, top_p=0.8),
])
def test_logits_are_changed_as_by_transformers(model: VLModel, settings: GenerateConfig) -> None:
    module: Any = model.module
    chosen = native_settings(model, settings)
    prepared, _ = module._prepare_generation_config(chosen)
    theirs = module._get_logits_processor(prepared, input_ids_seq_length=5, device="cpu")
    ids, logits = torch.tensor([[1, 2, 3, 2, 9]]), torch.randn(1, 300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(make_processors(chosen)(ids, logits.clone()), theirs(ids, logits.clone()))


def test_a_job_that_was_left_frees_its_place_and_says_no_more(model: VLModel) -> None:
    with running(model, places=1) as engine:
        asker = Asker(model, engine)
        first = asker.ask(make_conversation(0), GenerateConfig(max_new_tokens=5000, temperature=0.0), stream=True)
        assert isinstance(asker.told.get(timeout=60)[1], Grown)
        asker.ask(make_conversation(1), GenerateConfig(max_new_tokens=2))
        engine.leave(first)
        events = []
        while not events or not isinstance(events[-1][1], Ended):
            events.append(asker.told.get(timeout=60))
        assert events[-1][0] == 1
        assert all(isinstance(event, Grown) for _, event in events[:-1])
        assert engine.running == 0


def test_a_prompt_that_the_model_refuses_fails_alone(model: VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Lane._compute

    def refuse(self: Lane, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        if inputs["input_ids"].shape[1] > 60:
            raise ValueError("too much")
        return real(self, cache, **inputs)

    monkeypatch.setattr(Lane, "_compute", refuse)
    with running(model) as engine:
        asker = Asker(model, engine)
        asker.ask(make_conversation(0), GenerateConfig(max_new_tokens=2))
        asker.ask((user("What is it? " * 30),), GenerateConfig(max_new_tokens=2))
        asker.ask(make_conversation(1), GenerateConfig(max_new_tokens=2))
        ends = asker.collect()
    assert [type(end) for end in ends] == [Ended, Failed, Ended]
    assert str(ends[1].error) == "too much"


def test_a_step_that_fails_ends_its_answers_and_the_next_are_made(
    model: VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = Lane._compute, [RuntimeError("out of memory")]

    def fail(self: Lane, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        if inputs["input_ids"].shape[1] == 1 and failures:
            raise failures.pop()
        return real(self, cache, **inputs)

    monkeypatch.setattr(Lane, "_compute", fail)
    with running(model) as engine:
        asker = Asker(model, engine)
        asker.ask(make_conversation(0), GenerateConfig(max_new_tokens=4))
        assert isinstance(asker.collect()[0], Failed)
        asker.ask(make_conversation(0), GenerateConfig(max_new_tokens=4))
        assert asker.told.get(timeout=60)[1].reason == "length"


def test_a_device_that_has_failed_for_good_ends_the_engine(model: VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Lane, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        raise torch.AcceleratorError("device-side assert", 710)

    monkeypatch.setattr(Lane, "_compute", fail)
    with running(model, places=1) as engine:
        asker = Asker(model, engine)
        asker.ask(make_conversation(0), GenerateConfig(max_new_tokens=4))
        asker.told.get(timeout=60)
        engine._thread.join(60)
        assert not engine.alive
        assert "device-side assert" in str(engine.failure)


def test_logits_that_cannot_be_sampled_from_fail_their_row_alone(
    model: VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lane._compute

    def spoil(self: Lane, cache: Any, **inputs: torch.Tensor) -> torch.Tensor:
        logits = real(self, cache, **inputs).clone()
        rows = [*self.rows] if inputs["input_ids"].shape[1] == 1 else []
        for number, row in enumerate(rows):
            if row.job.settings.do_sample:
                logits[number] = float("nan")
        return logits

    monkeypatch.setattr(Lane, "_compute", spoil)
    with running(model) as engine:
        asker = Asker(model, engine)
        asker.ask(make_conversation(1), GenerateConfig(max_new_tokens=6, temperature=0.0))
        asker.ask(make_conversation(0), GenerateConfig(max_new_tokens=6, temperature=1.0))
        ends = asker.collect()
    wanted = model.answer([make_conversation(1)], GenerateConfig(max_new_tokens=6, temperature=0.0))[0]
    assert ends[0].ids == wanted.token_ids
    assert isinstance(ends[1], Failed)


def test_a_closed_engine_ends_its_jobs_and_takes_no_more(model: VLModel) -> None:
    engine = Engine(model, places=1)
    engine.start()
    asker = Asker(model, engine)
    for number in range(3):
        asker.ask(make_conversation(number), GenerateConfig(max_new_tokens=100_000))
    engine.close()
    ends = asker.collect()
    assert all(isinstance(end, Failed) and "the server is stopping" in str(end.error) for end in ends)
    with pytest.raises(RequestError, match="the server is stopping"):
        asker.ask(make_conversation(0), GenerateConfig())
    assert not engine.alive
