"""`vlcore web` with answers that a test writes: what follows `say:`, or numbers without an end for `count`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Generator
from typing import Any

from vlcore import talk
from vlcore.cli import main
from vlcore.generate import Reply, Usage
from vlcore.messages import make_message

real = talk.stream_answer


def answer(model: Any, messages: Any, settings: Any, prefix: Any = None) -> Generator[str, None, Reply]:
    asked = messages[-1].text
    if not asked.startswith(("say:", "count")):
        return (yield from real(model, messages, settings, prefix))
    said = ""
    words = itertools.count(1) if asked == "count" else asked.removeprefix("say:").split()
    for word in words:
        piece = f"{word} "
        yield piece
        said += piece
        time.sleep(0.03)
    said = said.strip()
    return Reply(said, (), Usage(0, 0, 0), "stop", (*messages, make_message("assistant", said)))


if __name__ == "__main__":
    talk.stream_answer = answer
    main()
