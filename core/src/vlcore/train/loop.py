"""The training loop: transformers' `Trainer`, which no other module knows.

It is held to three rules of this project: the loss is the mean over the trained tokens of a whole update, a
checkpoint is whole or not there, and what a checkpoint holds is written by the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from accelerate.utils import save_fsdp_optimizer
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import EvalLoopOutput

from vlcore.batch import IGNORED, count_tokens
from vlcore.checkpoint import list_checkpoints, remove_folder
from vlcore.config import SftConfig
from vlcore.train.data import SKIPPED_FILE, count_lines, recover_fault
from vlcore.train.divide import gather_weights, prepare_deepspeed, prepare_fsdp, read_deepspeed, read_fsdp
from vlcore.train.evaluation import keep_random
from vlcore.train.folder import choose_removed
from vlcore.train.goal import Goal, choose_best, write_best
from vlcore.train.loss import sum_loss
from vlcore.train.ranks import Place
from vlcore.train.record import Record
from vlcore.train.stop import Stopped, Stopper, catch_signals
from vlcore.weights import choose_device

if TYPE_CHECKING:
    from torch.utils.data import Dataset, Sampler
    from transformers import PreTrainedModel

    from vlcore.batch import Example, Pack
    from vlcore.train.packs import Forward


@dataclass(frozen=True, slots=True)
class Job:
    """Everything the loop needs.

    Attributes:
        model: the model, what is trained marked by `requires_grad`.
        arguments: how to train, in Trainer's words.
        place: this process among those that train.
        train: training examples, or packs of them; `validation` those to evaluate on, empty for none.
        collate: examples or packs to a batch.
        prepare: a batch on the device to the arguments of the model's forward.
        group: the optimizer's groups of the model's parameters, given the names of those with weight decay.
        write_weights: writes the model into a checkpoint's folder.
        finish: writes what comes last into a checkpoint's folder.
        order: order of the training examples; None for a random one.
        check: looks at the model's scores before the first step, and raises when they are not as they must be.
        evaluate: more figures of an evaluation by their names, given the step; all processes compute them together.
        goal: which checkpoint is the best, and when to give up.
    """

    model: PreTrainedModel
    arguments: TrainingArguments
    place: Place
    train: Dataset[Example] | Dataset[Pack]
    validation: Dataset[Example] | None
    collate: Callable[[Sequence[Example | Pack]], dict[str, torch.Tensor]]
    prepare: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
    group: Callable[..., list[dict[str, Any]]]
    write_weights: Callable[[Path], None]
    finish: Callable[[Path], None]
    order: Sampler[int] | None = None
    check: Callable[[Forward], None] | None = None
    evaluate: Callable[[int], Mapping[str, float]] | None = None
    goal: Goal = field(default_factory=Goal)


def run_loop(job: Job, config: SftConfig, folder: Path, resumed: Path | None) -> list[dict[str, Any]]:
    """Trains to the end.

    Args:
        job: model, data, and how to write them.
        config: the resolved configuration.
        folder: the run's folder.
        resumed: the checkpoint to go on from; the model's weights already come from it.

    Returns:
        The entries of the log, each with its `step`.

    Raises:
        Stopped: when a signal asked to stop; a checkpoint has been written.
    """
    loop = Loop(job, folder, config.save_total_limit)
    loop.remove_callback(ProgressCallback)
    loop.add_callback(Progress(folder / SKIPPED_FILE))
    loop.add_callback(LastLog())
    loop.add_callback(FillGradients())
    loop.add_callback(GiveUp(job.goal))
    if job.check:
        loop.add_callback(Check(partial(job.check, loop.compute_logits)))
    if job.place.is_first:
        loop.add_callback(Recorder(Record(folder)))
    with catch_signals() as request:
        loop.add_callback(Stopper(request, job.place))
        try:
            loop.train(resume_from_checkpoint=str(resumed) if resumed else None)
        except RuntimeError as error:
            if fault := recover_fault(error):
                raise fault from error
            raise
    if request.number and loop.state.global_step < loop.state.max_steps:
        raise Stopped(request.number, folder / f"checkpoint-{loop.state.global_step}")
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
    prepare_deepspeed(config)
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
        neftune_noise_alpha=config.neftune_alpha or None,
        label_smoothing_factor=config.label_smoothing,
        use_liger_kernel=config.use_liger,
        # The loss is taken from the logits, which liger's own loss would leave out.
        liger_kernel_config={"fused_linear_cross_entropy": False, "cross_entropy": False},
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
        run_name=f"{folder.parent.name}/{folder.name}",
        seed=config.seed,
        data_seed=config.data_seed,
        deepspeed=read_deepspeed(config),
        fsdp=bool(config.fsdp),  # type: ignore[arg-type]
        fsdp_config=read_fsdp(config),
        use_cpu=on_cpu and not config.deepspeed,  # with it, Trainer would leave DeepSpeed out
        ddp_find_unused_parameters=False,
    )


class Loop(Trainer):  # type: ignore[misc, unused-ignore]
    """Trainer with this project's loss, evaluation and checkpoints."""

    def __init__(self, job: Job, folder: Path, limit: int) -> None:
        prepare_fsdp(job.arguments, job.model)
        super().__init__(
            model=job.model, args=job.arguments, data_collator=job.collate, train_dataset=job.train,
            eval_dataset=job.validation or None, compute_loss_func=self.compute_mean,
        )
        self.job, self.folder, self.limit = job, folder, limit
        self.seconds_evaluating = 0.0
        # The count of trained tokens goes to `compute_mean` alone; a family's forward need not know of it.
        self.model_accepts_loss_kwargs = False

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Trainer's optimizer on this project's groups of parameters."""
        if self.optimizer is None:
            model = self.model if model is None else model
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = self.job.group(model, decaying=set(self.get_decay_parameter_names(model)))
            self.optimizer = kind(groups, **settings)
        return self.optimizer

    def compute_mean(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """The loss of a batch as its share of the mean over the update's trained tokens."""
        smoothing = self.args.label_smoothing_factor if torch.is_grad_enabled() else 0.0
        loss, count = sum_loss(outputs.logits, labels, smoothing)
        items = count if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=loss.device)
        return loss / items.clamp(min=1)  # an update of skipped rows alone trains nothing

    def compute_logits(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The model's scores as it is trained, without dropout and gradients; all processes compute together."""
        self.job.model.train(False)
        with torch.no_grad():
            logits: torch.Tensor = self.model_wrapped(**self._prepare_inputs(dict(batch))).logits
        return logits

    def _prepare_inputs(self, inputs: Any) -> Any:
        """A batch on the device and made ready there; floats that were bytes are then cast as all others."""
        return self._prepare_input(self.job.prepare(super()._prepare_inputs(inputs)))

    def _get_train_sampler(self, *given: Any) -> Sampler[int] | None:
        """The order of this project, where there is one."""
        return super()._get_train_sampler(*given) if self.job.order is None else self.job.order

    def _track_num_input_tokens(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """As Trainer; packed batches have no mask to count by."""
        tokens = count_tokens(inputs).to(self.args.device)
        self.state.num_input_tokens_seen += int(self.accelerator.gather(tokens).sum())

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        """As Trainer, which would take one step more when a finished run is resumed."""
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(*given, **named)  # type: ignore[no-untyped-call]
        else:
            self.control.should_training_stop = True

    def evaluate(self, *given: Any, **named: Any) -> dict[str, float]:
        """As Trainer, but training goes on as if nothing had been evaluated."""
        start = time.monotonic()
        with keep_random():
            metrics: dict[str, float] = super().evaluate(*given, **named)
        self.seconds_evaluating += time.monotonic() - start
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer, whose tokens a second would count the time of evaluations."""
        super().log(logs, None if start_time is None else start_time + self.seconds_evaluating)

    def evaluation_loop(self, dataloader: Any, description: str, *_: Any, metric_key_prefix: str = "eval",
                        **__: Any) -> EvalLoopOutput:
        """The mean loss over all trained tokens of the validation rows, whatever the batches, and the job's figures."""
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
        # Without a token, as when every row was skipped, there is no mean.
        metrics = {f"{metric_key_prefix}_loss": total / count} if count else {}
        if self.job.evaluate:
            with torch.no_grad(), self.accelerator.autocast():
                figures = self.job.evaluate(self.state.global_step)
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        rows = self.num_examples(dataloader)
        return EvalLoopOutput(predictions=numpy.empty(0), label_ids=None, metrics=metrics, num_samples=rows)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A checkpoint, written beside and renamed; then the surplus ones go."""
        self.store_flos()
        run_folder, place = self.folder, self.job.place
        with place.write_folder(run_folder / f"checkpoint-{self.state.global_step}") as folder:
            with gather_weights(self.job.model, place.is_first):
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

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """As Trainer, which under FSDP would write the weights a second time."""
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.job.place.is_first and self.lr_scheduler:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, SCHEDULER_NAME))

    def _remove_surplus(self, run_folder: Path) -> None:
        """Removes the checkpoints that need not be kept, and writes down which one is the best."""
        steps = [int(path.name.removeprefix("checkpoint-")) for path in list_checkpoints(run_folder)]
        best = choose_best(self.job.goal, self.state.log_history, steps)
        write_best(best, run_folder)
        for step in choose_removed(steps, best.step if best else None, self.limit):
            remove_folder(run_folder / f"checkpoint-{step}")

    def _leave_out_repeated(self, labels: torch.Tensor, number: int) -> torch.Tensor:
        """Labels of a process's batch without the rows that only fill up, so that all processes have as many."""
        size = self.args.eval_batch_size
        first = (number * self.job.place.world + self.job.place.rank) * size
        left = max(len(self.job.validation or ()) - first, 0)  # type: ignore[arg-type]
        return labels.masked_fill(torch.arange(len(labels), device=labels.device)[:, None] >= left, IGNORED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: the model was loaded with the weights to go on from."""


class Progress(ProgressCallback):
    """The progress bars, with the newest loss, real tokens a second, and the number of skipped rows.

    Figures are logged by `Recorder`.

    Args:
        skipped: the list of skipped rows, which all processes add to.
    """

    def __init__(self, skipped: Path) -> None:
        super().__init__()
        self.skipped, self.size = skipped, 0
        self.shown: dict[str, str] = {}

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        """Starts the bar."""
        super().on_train_begin(*given, **named)  # type: ignore[no-untyped-call]
        if self.training_bar is not None:
            self.training_bar.unit = "step"

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Shows how many rows were skipped when the list has grown."""
        super().on_step_end(args, state, control, **named)  # type: ignore[no-untyped-call]
        size = self.skipped.stat().st_size if self.skipped.is_file() else 0
        if self.training_bar is not None and size > self.size:
            self.size = size
            self.show(skipped=str(count_lines(self.skipped)))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Shows the newest figures of the training."""
        if "loss" in logs and "train_tokens_per_second" in logs:
            self.show(loss=f"{logs['loss']:.4g}", **{"tokens/s": f"{logs['train_tokens_per_second']:.0f}"})

    def show(self, **figures: str) -> None:
        """Puts figures behind the bar, beside those that stand there."""
        self.shown |= figures
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.shown)


class Check(TrainerCallback):
    """Looks at the model before the first step."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Raises when the model is not as it must be."""
        self.check()


class FillGradients(TrainerCallback):
    """Lets an update of text alone move the vision tower by its momentum and weight decay, as several processes do.

    Without pictures it has no gradient in one process, and the optimizer would leave it as it is.
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Gives weights that learn a gradient of 0 where they have none; DeepSpeed keeps gradients elsewhere."""
        for parameter in () if args.deepspeed else named["model"].parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)


class LastLog(TrainerCallback):
    """Logs the last steps, too, when they do not fill an interval; all processes log together."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for a log at the end."""
        control.should_log = control.should_log or state.global_step >= state.max_steps


class GiveUp(TrainerCallback):
    """Saves and ends the training when evaluations no longer bring anything better."""

    def __init__(self, goal: Goal) -> None:
        self.goal = goal

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends a resumed run that had given up already."""
        control.should_training_stop = self.goal.is_given_up(state.log_history)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ends the run with a checkpoint and a line of the log."""
        if self.goal.is_given_up(state.log_history):
            control.should_training_stop = control.should_save = control.should_log = True


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
        """Draws the curves."""
        self.record.draw(state.log_history)

    on_evaluate = on_train_end = on_save
