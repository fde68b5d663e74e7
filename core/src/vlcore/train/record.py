"""What a run writes down while it goes: `train.log`, `metrics.jsonl`, `loss.png`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from vlcore.train.curve import draw_curves
from vlcore.train.goal import list_figures

_log = logging.getLogger(__name__)
#: Figures of the log, in the order of a line, with their names there.
FIGURES = {
    "loss": "loss", "eval_loss": "validation loss", "grad_norm": "gradient", "learning_rate": "rate",
    "train_tokens_per_second": "tokens/s", "train_loss": "mean loss",
}


class Record:
    """The figures of a run in its folder.

    Attributes:
        folder: where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._drawn = 0

    def start(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Begins `metrics.jsonl` with what a resumed checkpoint already knows."""
        text = "".join(json.dumps(entry) + "\n" for entry in history)
        (self.folder / "metrics.jsonl").write_text(text, encoding="utf8")

    def add(self, entry: Mapping[str, Any], steps: int) -> None:
        """Appends an entry, and logs its main figures in one line."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf8") as file:
            file.write(json.dumps(entry) + "\n")
        words = FIGURES | {name: f"validation {name.removeprefix('eval_')}" for name in list_figures(entry)}
        figures = [f"{word} {entry[name]:.4g}" for name, word in words.items() if name in entry]
        if figures:
            _log.info("step %d/%d: %s", entry["step"], steps, ", ".join(figures))

    def draw(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Draws `loss.png` anew when there is something new."""
        if len(history) > self._drawn:
            draw_curves(history, self.folder / "loss.png")
            self._drawn = len(history)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Appends everything that vlcore logs to a file, and keeps progress bars apart from it on a terminal."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    logger = logging.getLogger("vlcore")
    handler = logging.FileHandler(path, encoding="utf8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        # Only where the application prints its log at all.
        with logging_redirect_tqdm() if logging.getLogger().handlers else nullcontext():
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
