from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

from vlcore.train.ranks import Place
from vlcore.train.stop import Request, Stopper


def test_a_signal_that_comes_while_processes_agree_is_kept_for_the_next_step() -> None:
    request = Request()

    class Interrupted(Place):
        def largest(self, number: int) -> int:
            request.note(signal.SIGTERM, None)
            return number

    control: Any = SimpleNamespace(should_save=False, should_training_stop=False, should_evaluate=False)
    stopper = Stopper(request, Interrupted())
    state = SimpleNamespace(global_step=1, max_steps=9)
    stopper.on_step_end(None, state, control)
    assert not control.should_training_stop
    stopper.on_step_end(None, state, control)
    assert control.should_training_stop and control.should_save
