"""One thread that owns the model and computes a token for every running answer at a time.

A request joins the running ones at the next token, with settings of its own, and leaves when its answer ends or its
client has gone; nobody waits for a batch to fill or to empty. Adapters take turns, token by token.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from threading import Condition, Thread
from typing import Any

from vlcore.model import VLModel
from vlcore.serve.faults import RequestError
from vlcore.serve.job import Failed, Job
from vlcore.serve.lane import Lane, Reading
from vlcore.serve.shelf import Shelf

LOG = logging.getLogger("vlcore.serve")


class Engine:
    """Answers jobs. `failure` is what has ended it when nobody has closed it.

    Args:
        model: the model; nobody else may use it while the engine runs.
        places: answers computed at once.
        prefill: prompts of up to so many tokens, padding included, are read at once; a longer one is read alone.
        shelf: where what was computed is kept for later prompts that begin alike; None for nowhere.
        switch: makes an adapter the model's, None for the model without one.
        watch: told how many rows each step computes.

    Raises:
        UsageError: for a model that keeps something else than keys and values of each position.
    """

    def __init__(
        self,
        model: VLModel,
        places: int = 8,
        prefill: int = 8192,
        shelf: Shelf | None = None,
        switch: Callable[[str | None], None] = lambda adapter: None,
        watch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        from vlcore.serve.cache import new_cache

        module: Any = model.module
        new_cache(module.config.get_text_config(decoder=True))
        self.model, self.places, self.prefill, self.switch, self.watch = model, places, prefill, switch, watch
        self.shelf = shelf or Shelf(0)
        self._waiting: deque[Job] = deque()
        self._lanes: dict[str | None, Lane] = {}
        self._changed = Condition()
        self._closed = False
        self.failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="engine", daemon=True)

    @property
    def running(self) -> int:
        """Answers being computed."""
        return sum(len(lane.rows) for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """Jobs that have no place yet."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive() and not self._closed

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Adds a job; its events come from the engine's thread.

        Raises:
            RequestError: 503 when the engine has been closed.
        """
        with self._changed:
            if self._closed:
                raise stopped()
            self._waiting.append(job)
            self._changed.notify()

    def leave(self, job: Job) -> None:
        """Ends a job whose answer nobody wants any more, at the next token."""
        job.left.set()

    def close(self) -> None:
        """Ends all jobs with an error, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait():
                self._admit()
                for lane in self._lanes.values():
                    self._step(lane)
        except BaseException as error:
            LOG.exception("the engine has failed")
            self.failure = error
        finally:
            with self._changed:
                self._closed = True
                waiting, self._waiting = self._waiting, deque()
            for lane in self._lanes.values():
                lane.fail(stopped())
            for job in waiting:
                job.tell(Failed(stopped()))

    def _wait(self) -> bool:
        """Waits until there is something to do; False when the engine was closed."""
        for lane in self._lanes.values():
            lane.drop_left()
        with self._changed:
            while not (self._closed or self._waiting or self.running):
                self._changed.wait()
            return not self._closed

    def _admit(self) -> None:
        """Gives free places to jobs that wait, the longest waiting first."""
        jobs = self._take_waiting()
        if not jobs:
            return
        lane = self._lanes.setdefault(jobs[0].adapter, Lane(self.model, self.shelf, jobs[0].adapter))
        for reading in lane.list_readings(jobs):
            self._read(lane, reading)

    def _read(self, lane: Lane, reading: Reading) -> None:
        """Reads prompts; those that cannot be read together one by one, so that only those at fault fail."""
        try:
            self.switch(lane.adapter)
            lane.read(reading)
        except Exception as error:
            LOG.exception("%d prompts cannot be read", len(reading.jobs))
            self.shelf.clear()
            if len(reading.jobs) == 1 or is_lasting(error):
                for job in reading.jobs:
                    job.tell(Failed(error))
                if is_lasting(error):
                    raise
                return
            for single in reading.singles:
                self._read(lane, single)

    def _take_waiting(self) -> list[Job]:
        """Jobs that may be read together now: of one adapter, within the limits of places and tokens."""
        taken: list[Job] = []
        with self._changed:
            free = self.places - self.running
            kept: deque[Job] = deque()
            while self._waiting and len(taken) < free:
                job = self._waiting.popleft()
                longest = max(len(each.example) for each in (*taken, job))
                if job.left.is_set():
                    continue
                if not taken or (job.adapter == taken[0].adapter and longest * (len(taken) + 1) <= self.prefill):
                    taken.append(job)
                else:
                    kept.append(job)
            self._waiting.extendleft(reversed(kept))
        return taken

    def _step(self, lane: Lane) -> None:
        if not lane.rows:
            return
        self.watch(len(lane.rows))
        try:
            self.switch(lane.adapter)
            lane.step()
        except Exception as error:
            LOG.exception("%d answers have failed", len(lane.rows))
            self.shelf.clear()
            lane.fail(error)
            if is_lasting(error):
                raise


def is_lasting(error: Exception) -> bool:
    """Whether a device will fail at whatever it is asked from now on."""
    import torch

    return isinstance(error, torch.AcceleratorError)


def stopped() -> RequestError:
    """What a request is told that comes, or still runs, when the server stops."""
    return RequestError("the request", "the server is stopping", "send it again later", status=503)


def make_switch(module: Any, usable: Mapping[str, str]) -> Callable[[str | None], None]:
    """What makes an adapter of a PEFT model the active one, or none; does nothing when it is already.

    Args:
        module: a model, with PEFT around it when there are adapters.
        usable: the adapters.
    """
    active: list[str | None] = ["unknown"]

    def switch(adapter: str | None) -> None:
        if not usable or active[0] == adapter:
            return
        if adapter is None:
            module.base_model.disable_adapter_layers()
        else:
            module.base_model.enable_adapter_layers()
            module.set_adapter(adapter, inference_mode=True)
        active[0] = adapter

    return switch
