"""A run that is told to stop: it ends the step it is in, writes a checkpoint and says how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from vlcore.errors import VlcoreError

if TYPE_CHECKING:
    from vlcore.train.ranks import Place

#: What Ctrl-C, `kill` and the schedulers of clusters send.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(VlcoreError):
    """A training that was told to stop and has written a checkpoint to go on from."""

    def __init__(self, number: int, checkpoint: Path) -> None:
        name = signal.Signals(number).name
        super().__init__(f"training stopped by {name}", f"its state is in {checkpoint}",
                         "go on with --resume_from_checkpoint latest")
        self.exit_code = 128 + number


@dataclass(slots=True)
class Request:
    """Whether a signal has come.

    Attributes:
        number: the signal's; 0 for none.
    """

    number: int = 0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Keeps the signal; the same one a second time ends the process at once where it can."""
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def catch_signals() -> Iterator[Request]:
    """A scope in which the signals that ask to stop are noted; outside the main thread nothing is caught."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopper(TrainerCallback):
    """Saves and stops after the step in which a signal came to any of the processes."""

    def __init__(self, request: Request, place: Place) -> None:
        self.request, self.place = request, place

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Lets all processes agree, since a signal reaches them in different steps."""
        agreed = self.place.largest(self.request.number)
        if not agreed:  # a signal that came meanwhile is for the next step
            return
        self.request.number = agreed
        if state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
            control.should_evaluate = False
