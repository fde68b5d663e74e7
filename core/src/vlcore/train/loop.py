"""The training loop: transformers' `Trainer`, which no other module knows.

It is held to three rules of this project: the loss is the mean over the trained tokens of a whole update, a
checkpoint is whole or not there, and what a checkpoint holds is written by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from vlcore.batch import IGNORED
from vlcore.checkpoint import list_checkpoints, remove_folder
from vlcore.config import SftConfig
from vlcore.train.folder import choose_removed
from vlcore.train.launch import read_deepspeed
from vlcore.train.loss import sum_loss
from vlcore.train.ranks import Place, gather_weights
from vlcore.train.record import Record
from vlcore.weights import choose_device

if TYPE_CHECKING:
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel

    from vlcore.batch import Example


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the loop needs.

    Attributes:
        model: the model, what is trained marked by `requires_grad`.
        arguments: how to train, in Trainer's words.
        place: this process among those that train.
        train: training examples; `validation` those to evaluate on, empty for none.
        collate: examples to the arguments of the model's forward.
        write_weights: writes the model into a checkpoint's folder.
        finish: writes what comes last into a checkpoint's folder.
    """

    model: PreTrainedModel
    arguments: TrainingArguments
    place: Place
    train: Dataset[Example]
    validation: Dataset[Example] | None
    collate: Callable[[Sequence[Example]], dict[str, torch.Tensor]]
    write_weights: Callable[[Path], None]
    finish: Callable[[Path], None]


def run_loop(job: Job, config: SftConfig, folder: Path, resumed: Path | None) -> list[dict[str, Any]]:
    """Trains to the end.

    Args:
        job: model, data, and how to write them.
        config: the resolved configuration.
        folder: the run's folder.
        resumed: the checkpoint to go on from; the model's weights already come from it.

    Returns:
        The entries of the log, each with its `step`.
    """
    loop = Loop(job, folder, config.save_total_limit)
    loop.remove_callback(ProgressCallback)
    loop.add_callback(Progress())
    loop.add_callback(LastLog())
    if job.place.is_first:
        loop.add_callback(Recorder(Record(folder)))
    loop.train(resume_from_checkpoint=str(resumed) if resumed else None)
    return loop.state.log_history


def make_arguments(config: SftConfig, dtype: torch.dtype, evaluate: bool, folder: Path) -> TrainingArguments:
    """The configuration in Trainer's words.

    Args:
        config: the resolved configuration.
        dtype: what is computed in; float32 means no mixed precision.
        evaluate: whether there are validation rows.
        folder: the run's folder.
    """
    on_cpu = not choose_device(config.device_map)
    assert config.gradient_accumulation_steps and config.learning_rate is not None  # resolved
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.num_train_epochs,
        max_steps=config.max_steps if config.max_steps > 0 else -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_ratio,  # below 1 it is a part of all steps
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        adam_beta2=config.adam_beta2,
        bf16=dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_steps=config.logging_steps,
        dataloader_num_workers=config.dataloader_num_workers,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,  # rows are examples, not dictionaries
        include_num_input_tokens_seen="non_padding",
        report_to=list(config.report_to),
        seed=config.seed,
        data_seed=config.data_seed,
        deepspeed=read_deepspeed(config),
        use_cpu=on_cpu and not config.deepspeed,  # with it, Trainer would leave DeepSpeed out
        ddp_find_unused_parameters=False,
    )


class Loop(Trainer):  # type: ignore[misc, unused-ignore]
    """Trainer with this project's loss, evaluation and checkpoints."""

    def __init__(self, job: Job, folder: Path, limit: int) -> None:
        super().__init__(
            model=job.model, args=job.arguments, data_collator=job.collate, train_dataset=job.train,
            eval_dataset=job.validation or None, compute_loss_func=mean_loss,
        )
        self.job, self.folder, self.limit = job, folder, limit
        # The count of trained tokens goes to `mean_loss` alone; a family's forward need not know of it.
        self.model_accepts_loss_kwargs = False

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        """As Trainer, which would take one step more when a finished run is resumed."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*given, **named)  # type: ignore[no-untyped-call]
        else:
            self.control.should_training_stop = True

    def evaluation_loop(self, dataloader: Any, description: str, *_: Any, metric_key_prefix: str = "eval",
                        **__: Any) -> EvalLoopOutput:
        """The mean loss over all trained tokens of the validation rows, whatever the batches."""
        self.job.model.train(False)
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for number, batch in enumerate(dataloader):
            inputs = self._prepare_inputs(batch)
            labels = self._leave_out_repeated(inputs.pop("labels"), number)
            with torch.no_grad():
                loss, count = sum_loss(self.model_wrapped(**inputs).logits, labels)
            sums += torch.stack([loss.double(), count.double()])
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        total, count = self.accelerator.reduce(sums).tolist()
        metrics = {f"{metric_key_prefix}_loss": total / count}
        rows = self.num_examples(dataloader)
        return EvalLoopOutput(predictions=numpy.empty(0), label_ids=None, metrics=metrics, num_samples=rows)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint, written beside and renamed; then the surplus ones go."""
        self.store_flos()
        run_folder, place = self.folder, self.job.place
        with place.write_folder(run_folder / f"checkpoint-{self.state.global_step}") as folder:
            with gather_weights(self.job.model):
                if place.is_first:
                    self.job.write_weights(folder)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
            place.wait()
            if place.is_first:
                self.state.save_to_json(str(folder / "trainer_state.json"))
                self.job.finish(folder)
        if place.is_first:
            self._remove_surplus(run_folder)

    def _remove_surplus(self, run_folder: Path) -> None:
        """Removes the checkpoints that need not be kept."""
        steps = [int(path.name.removeprefix("checkpoint-")) for path in list_checkpoints(run_folder)]
        history = self.state.log_history
        losses = {int(entry["step"]): entry["eval_loss"] for entry in history if "eval_loss" in entry}
        for step in choose_removed(steps, losses, self.limit):
            remove_folder(run_folder / f"checkpoint-{step}")

    def _leave_out_repeated(self, labels: torch.Tensor, number: int) -> torch.Tensor:
        """Labels of a process's batch without the rows that only fill up, so that all processes have as many."""
        size = self.args.eval_batch_size
        first = (number * self.job.place.world + self.job.place.rank) * size
        left = max(len(self.job.validation or ()) - first, 0)  # type: ignore[arg-type]
        return labels.masked_fill(torch.arange(len(labels), device=labels.device)[:, None] >= left, IGNORED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the model was loaded with the weights to go on from."""


def mean_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """The loss of a batch as its share of the mean over the update's trained tokens."""
    loss, count = sum_loss(outputs.logits, labels)
    return loss / (count if num_items_in_batch is None else num_items_in_batch)


class Progress(ProgressCallback):
    """The progress bars alone; figures are logged by `Recorder`."""

    def on_log(self, *_: Any, **__: Any) -> None:
        """Writes nothing."""


class LastLog(TrainerCallback):
    """Logs the last steps, too, when they do not fill an interval; all processes log together."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for a log at the end."""
        control.should_log = control.should_log or state.global_step >= state.max_steps


class Recorder(TrainerCallback):
    """Hands the figures of the loop to a `Record`."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Starts the record with the history of a resumed checkpoint."""
        self.record.start(state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Adds the newest entry."""
        self.record.add(state.log_history[-1], state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draws the curve."""
        self.record.draw(state.log_history)

    on_evaluate = on_train_end = on_save
