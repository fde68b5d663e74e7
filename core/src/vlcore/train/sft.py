"""The recipe of a fine-tuning, read from top to bottom."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.attention import use_rows
from vlcore.checkpoint import VALIDATION_FILE, list_checkpoints, write_origin, write_run
from vlcore.config import SftConfig
from vlcore.media import normalise
from vlcore.metrics import Facts, check_facts, choose_metrics
from vlcore.model import build_frontend
from vlcore.packing import pack_rows
from vlcore.resolve import Checkpoint, resolve_model
from vlcore.train.blank import collate_filled, make_blank
from vlcore.train.data import SKIPPED_FILE, Examples, Selection, count_lines, load_data, write_lines, write_rows
from vlcore.train.divide import is_divided
from vlcore.train.evaluation import Evaluation, Learning
from vlcore.train.folder import find_resumed, make_run_folder
from vlcore.train.goal import Best, Goal, choose_best
from vlcore.train.learner import Learner, load_learner, trains_towers
from vlcore.train.loop import Job, make_arguments, run_loop
from vlcore.train.optimizer import group_parameters
from vlcore.train.order import GroupedOrder
from vlcore.train.packs import PROBE, PackedExamples, check_apart, needs_flat, refuse_overlay
from vlcore.train.pissa import write_plain
from vlcore.train.ranks import Place, join_processes, place_arguments
from vlcore.train.record import log_to
from vlcore.train.settings import compare_resumed, find_idle, make_goal, resolve_settings
from vlcore.train.stock import count_more, group_faults
from vlcore.weights import choose_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from vlcore.checkpoint import Run
    from vlcore.model import Frontend
    from vlcore.train.packs import Forward

_log = logging.getLogger(__name__)
#: The list of rows that were reduced to fit, by what was done to them.
REDUCED_FILES = {"shrink": "shrunk.txt", "truncate": "truncated.txt"}


@dataclass(frozen=True, slots=True)
class Result:
    """What a training left.

    Attributes:
        folder: the run's folder, with its log, figures and checkpoints.
        checkpoint: the last checkpoint.
        loss: training loss of the last steps that were logged, nats a token.
        eval_loss: validation loss at the end; None without validation rows.
        best: the best of the checkpoints that are left; None when none was evaluated in its step.
    """

    folder: Path
    checkpoint: Path
    loss: float
    eval_loss: float | None
    best: Best | None = None


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
    check_facts(choose_metrics(config.metric), Facts(grounding=checkpoint.family.grounding))
    resumed = find_resumed(config.resume_from_checkpoint, Path(config.output_dir), checkpoint.name)
    frontend = build_frontend(checkpoint, config.family_options)
    if config.packing:
        refuse_overlay(frontend)
    data = load_data(frontend, config, place)
    folder = place.share(lambda: choose_folder(config, checkpoint.name, resumed))
    with log_to(folder / "train.log") if place.is_first else nullcontext():
        report_settings(config, data, resumed)
        if place.is_first:
            write_inputs(folder, config, checkpoint, data)
        # Before the model: under ZeRO-3 it is divided while it is loaded, as the arguments say.
        arguments = make_arguments(config, choose_dtype(config.dtype, checkpoint.config), bool(data.validation), folder)
        place_arguments(arguments, place)
        learner = load_learner(checkpoint, replace(config, device_map=place.choose_device(config.device_map)), resumed)
        model = learner.model
        if config.packing:
            use_rows(model)
        together = place.world > 1 and (is_divided(config) or trains_towers(checkpoint, model))
        arguments.ddp_find_unused_parameters = together  # releases leave the last layers of some towers out
        rows, order = arrange(
            Examples(
                frontend, data.train, config, lengths=data.lengths, steps=data.steps, skipped=folder / SKIPPED_FILE
            ),
            config, place,
        )
        validation = Examples(
            frontend, data.validation, config, lengths=data.validation_lengths, steps=data.validation_steps,
            skipped=folder / SKIPPED_FILE,
        )
        job = Job(
            model=model,
            arguments=arguments,
            place=place,
            train=rows,
            validation=validation,
            collate=partial(
                collate_filled, pad_id=frontend.tokenizer.pad_id, blank=make_blank(frontend) if together else None,
                flat=needs_flat(model),
            ),
            prepare=partial(normalise, frontend.media),
            group=partial(group_parameters, parts=checkpoint.parts, config=config),
            write_weights=weights_writer(checkpoint, learner, config),
            finish=partial(write_facts, config=config, checkpoint=checkpoint, validation=folder / VALIDATION_FILE),
            order=order,
            check=pack_checker(frontend, model) if config.packing else None,
            evaluate=evaluator(Learning(frontend, model, arguments.device), validation, config, place, folder),
            goal=make_goal(config),
        )
        history = run_loop(job, config, folder, resumed.folder if resumed else None)
        if skipped := count_lines(folder / SKIPPED_FILE):
            _log.warning("%d rows could not be used and were skipped: %s", skipped, folder / SKIPPED_FILE)
        last = list_checkpoints(folder)[-1]
        best = report_end(job.goal, history, folder)
    newest = {name: value for entry in history for name, value in entry.items()}
    return Result(folder, last, newest["loss"], newest.get("eval_loss"), best)


def arrange(
    examples: Examples, config: SftConfig, place: Place
) -> tuple[Examples | PackedExamples, GroupedOrder | None]:
    """The training rows, or packs of them, and their order where it is not a random one."""
    if not (config.packing or config.group_by_length):
        return examples, None
    assert examples.lengths is not None and config.gradient_accumulation_steps  # a forecast was made
    if not config.packing:
        return examples, GroupedOrder(examples.lengths, config.batch_size * place.world, config.data_seed)
    packs = pack_rows(examples.lengths, config.max_length, config.data_seed)
    update = config.batch_size * place.world * config.gradient_accumulation_steps
    _log.info("packing: %s; an update takes %d packs", packs.summary, update)
    return PackedExamples(examples, packs), None


def pack_checker(frontend: Frontend, model: PreTrainedModel) -> Callable[[Forward], None]:
    """What holds a model to keeping packed rows apart."""
    return partial(check_apart, ids=frontend.tokenizer.encode(PROBE), flat=needs_flat(model), frontend=frontend)


def choose_folder(config: SftConfig, name: str, resumed: Run | None) -> Path:
    """The run's folder: that of the resumed checkpoint when it is the last one there, else a new one."""
    if resumed and list_checkpoints(resumed.folder.parent)[-1:] == [resumed.folder]:
        return resumed.folder.parent
    return make_run_folder(Path(config.output_dir), name)


def report_settings(config: SftConfig, data: Selection, resumed: Run | None) -> None:
    """Logs the data, and every setting that has no effect or differs from the resumed run's."""
    _log.info(data.summary)
    data.tally.warn_unread()
    for alike in group_faults(data.left_out).values():
        more = f" (and {count_more(alike)})" if len(alike) > 1 else ""
        _log.warning("left out, all in left_out.txt: %s%s", alike[0], more)
    if data.reduced:
        _log.warning("%d rows reduced to fit, all in %s", len(data.reduced), REDUCED_FILES[config.on_overflow])
    for line in find_idle(config, bool(data.validation)):
        _log.warning(line)
    if resumed:
        _log.info("going on from %s", resumed.folder)
        for line in compare_resumed(config, resumed):
            _log.warning("not as in the checkpoint: %s", line)


def report_end(goal: Goal, history: Sequence[Mapping[str, Any]], folder: Path) -> Best | None:
    """Logs how the training ended, and returns the best checkpoint."""
    last = list_checkpoints(folder)[-1]
    _log.info("last checkpoint: %s", last)
    if goal.is_given_up(history):
        _log.warning("stopped after %s: %d evaluations brought no better %s", last.name, goal.patience, goal.name)
    best = choose_best(goal, history, [int(path.name.split("-")[1]) for path in list_checkpoints(folder)])
    if best:
        _log.info("best checkpoint: %s (%s %.4g)", folder / f"checkpoint-{best.step}", best.metric, best.value)
    if best and best.better:
        _log.warning("step %d had a better %s than every checkpoint; give --save_steps as --eval_steps to keep it",
                     best.better, goal.name)
    return best


def evaluator(
    model: Learning, examples: Examples, config: SftConfig, place: Place, folder: Path
) -> Evaluation | None:
    """What answers the validation rows at each evaluation; None when nothing is to be answered."""
    if not (config.predict_with_generate and len(examples)):
        return None
    return Evaluation(model, examples, choose_metrics(config.metric), config, place, folder)


def write_inputs(folder: Path, config: SftConfig, checkpoint: Checkpoint, data: Selection) -> None:
    """Writes what the run starts from into its folder."""
    write_lines(data.left_out, folder / "left_out.txt")
    if data.reduced:
        write_lines(data.reduced, folder / REDUCED_FILES[config.on_overflow])
    write_rows(data.validation, folder / VALIDATION_FILE, skip=config.bad_rows == "skip")
    write_run(folder, config, checkpoint)


def write_facts(folder: Path, config: SftConfig, checkpoint: Checkpoint, validation: Path) -> None:
    """Writes the validation rows and the configuration, which lists all files and so comes last."""
    shutil.copyfile(validation, folder / VALIDATION_FILE)
    write_run(folder, config, checkpoint)


def weights_writer(
    checkpoint: Checkpoint, learner: Learner, config: SftConfig
) -> Callable[[Path], None]:
    """How the weights are written: adapters as PEFT saves them, a full model in its release's layout."""

    model: Any = learner.model

    def write_adapter(folder: Path) -> None:
        if learner.first is None:
            model.save_pretrained(folder, save_embedding_layers=False)
        else:
            write_plain(model, learner.first, folder)

    def write_full(folder: Path) -> None:
        checkpoint.call("merge", model=model, output=folder)
        write_origin(checkpoint, folder)

    return write_adapter if config.sft_type == "lora" else write_full
