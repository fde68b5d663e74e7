"""Run folders, `OUTPUT_DIR/MODEL/vN-DATE`, and which of their checkpoints are kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from vlcore.checkpoint import Run, check_whole, list_checkpoints, read_run
from vlcore.errors import CheckpointError


def make_run_folder(output_dir: Path, name: str) -> Path:
    """A new run folder; N counts up."""
    parent = output_dir / name
    versions = [version for version, _ in list_runs(parent)]
    folder = parent / f"v{max(versions, default=-1) + 1}-{datetime.now():%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    return folder


def list_runs(parent: Path) -> list[tuple[int, Path]]:
    """Run folders with their version, oldest first."""
    matches = [(re.match(r"v(\d+)-", path.name), path) for path in parent.glob("v*-*") if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def find_resumed(wanted: str, output_dir: Path, name: str) -> Run | None:
    """The checkpoint that `--resume_from_checkpoint` names, every file of it checked.

    Args:
        wanted: a checkpoint folder; `latest` for the newest whole one of this model; empty for none.
        output_dir: where the runs are.
        name: the model's name.

    Raises:
        CheckpointError: when there is none, or it is not whole.
    """
    if not wanted:
        return None
    if wanted == "latest":
        return find_latest(output_dir / name)
    run = read_run(wanted)
    check_whole(run.folder, run.damaged)
    if not (run.folder / "trainer_state.json").is_file():
        do = "give a checkpoint of vlcore sft"
        raise CheckpointError(f"checkpoint {wanted}", "it holds no state to go on from", do)
    return run


def find_latest(parent: Path) -> Run:
    """The newest whole checkpoint among the runs of a model.

    Raises:
        CheckpointError: when there is none.
    """
    for _, folder in reversed(list_runs(parent)):
        for path in reversed(list_checkpoints(folder)):
            try:
                run = read_run(path)
            except CheckpointError:
                continue
            if not run.damaged:
                return run
    raise CheckpointError(f"resume_from_checkpoint latest in {parent}", "no run there has a whole checkpoint",
                          "leave the option out to start anew")


def choose_removed(steps: Sequence[int], best: int | None, limit: int) -> list[int]:
    """The steps whose checkpoints go, oldest first; the last and the best always stay.

    Args:
        steps: steps with a checkpoint.
        best: the best of them; None when none was evaluated.
        limit: checkpoints that may stay, the last and the best among them.

    >>> choose_removed([10, 20, 30, 40], 10, 2)
    [20, 30]
    """
    kept = {max(steps), *([] if best is None else [best])}
    loose = [step for step in sorted(steps) if step not in kept]
    return loose[: max(len(steps) - max(limit, len(kept)), 0)]
