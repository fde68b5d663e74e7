"""The recipe of a fine-tuning, read from top to bottom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.checkpoint import VALIDATION_FILE, list_checkpoints, write_origin, write_run
from vlcore.config import SftConfig
from vlcore.model import build_frontend
from vlcore.resolve import Checkpoint, resolve_model
from vlcore.train.blank import collate_filled, make_blank
from vlcore.train.data import Examples, Selection, load_data, write_left_out, write_rows
from vlcore.train.folder import find_resumed, make_run_folder
from vlcore.train.learner import load_learner, trains_towers
from vlcore.train.loop import Job, make_arguments, run_loop
from vlcore.train.ranks import Place, is_divided, join_processes, place_arguments
from vlcore.train.record import log_to
from vlcore.train.settings import compare_resumed, find_idle, resolve_settings
from vlcore.weights import choose_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlcore.checkpoint import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What a training left.

    Attributes:
        folder: the run's folder, with its log, figures and checkpoints.
        checkpoint: the last checkpoint.
        loss: training loss of the last steps that were logged, nats a token.
        eval_loss: validation loss at the end; None without validation rows.
    """

    folder: Path
    checkpoint: Path
    loss: float
    eval_loss: float | None


def sft(config: SftConfig) -> Result:
    """Fine-tunes a model.

    Args:
        config: the model, the data and how to train.

    Raises:
        UsageError: for settings that do not go together.
        DataError: for rows that cannot be used; the message names file and line.
        ModelNotFound, CheckpointError: when the model, or the checkpoint to go on from, cannot be loaded.
    """
    with join_processes() as place:
        return train(resolve_settings(config, place.world), place)


def train(config: SftConfig, place: Place) -> Result:
    """Fine-tunes a model as one of several processes; arguments and errors as of `sft`."""
    checkpoint = resolve_model(config)
    resumed = find_resumed(config.resume_from_checkpoint, Path(config.output_dir), checkpoint.name)
    frontend = build_frontend(checkpoint, config.family_options)
    data = load_data(frontend, config)
    folder = place.share(lambda: choose_folder(config, checkpoint.name, resumed))
    with log_to(folder / "train.log") if place.is_first else nullcontext():
        report_settings(config, data, resumed)
        if place.is_first:
            write_inputs(folder, config, checkpoint, data)
        # Before the model: under ZeRO-3 it is divided while it is loaded, as the arguments say.
        arguments = make_arguments(config, choose_dtype(config.dtype, checkpoint.config), bool(data.validation), folder)
        place_arguments(arguments, place)
        model = load_learner(checkpoint, replace(config, device_map=place.choose_device(config.device_map)), resumed)
        together = place.world > 1 and (is_divided() or trains_towers(checkpoint, model))
        job = Job(
            model=model,
            arguments=arguments,
            place=place,
            train=Examples(frontend, data.train, config.loss_on),
            validation=Examples(frontend, data.validation, config.loss_on),
            collate=partial(
                collate_filled, pad_id=frontend.tokenizer.pad_id, blank=make_blank(frontend) if together else None
            ),
            write_weights=weights_writer(checkpoint, model, config),
            finish=partial(write_facts, config=config, checkpoint=checkpoint, data=data),
        )
        history = run_loop(job, config, folder, resumed.folder if resumed else None)
        last = list_checkpoints(folder)[-1]
        _log.info("last checkpoint: %s", last)
    newest = {name: value for entry in history for name, value in entry.items()}
    return Result(folder, last, newest["loss"], newest.get("eval_loss"))


def choose_folder(config: SftConfig, name: str, resumed: Run | None) -> Path:
    """The run's folder: that of the resumed checkpoint when it is the last one there, else a new one."""
    if resumed and list_checkpoints(resumed.folder.parent)[-1:] == [resumed.folder]:
        return resumed.folder.parent
    return make_run_folder(Path(config.output_dir), name)


def report_settings(config: SftConfig, data: Selection, resumed: Run | None) -> None:
    """Logs the data, and every setting that has no effect or differs from the resumed run's."""
    _log.info(data.summary)
    for row, why in data.left_out:
        _log.warning("left out %s: %s", row, why)
    for line in find_idle(config, bool(data.validation)):
        _log.warning(line)
    if resumed:
        _log.info("going on from %s", resumed.folder)
        for line in compare_resumed(config, resumed):
            _log.warning("not as in the checkpoint: %s", line)


def write_inputs(folder: Path, config: SftConfig, checkpoint: Checkpoint, data: Selection) -> None:
    """Writes what the run starts from into its folder."""
    write_left_out(data.left_out, folder / "left_out.txt")
    write_facts(folder, config, checkpoint, data)


def write_facts(folder: Path, config: SftConfig, checkpoint: Checkpoint, data: Selection) -> None:
    """Writes the validation rows and the configuration, which lists all files and so comes last."""
    write_rows(data.validation, folder / VALIDATION_FILE)
    write_run(folder, config, checkpoint)


def weights_writer(
    checkpoint: Checkpoint, model: PreTrainedModel, config: SftConfig
) -> Callable[[Path], None]:
    """How the weights are written: adapters as PEFT saves them, a full model in its release's layout."""

    def write_adapter(folder: Path) -> None:
        model.save_pretrained(folder, save_embedding_layers=False)

    def write_full(folder: Path) -> None:
        checkpoint.call("merge", model=model, output=folder)
        write_origin(checkpoint, folder)

    return write_adapter if config.sft_type == "lora" else write_full
