"""Trainings that must come out the same, and what each of them leaves."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from safetensors.torch import load_file
from vlcore.checkpoint import list_checkpoints, read_run
from vlcore.config import SftConfig
from vlcore.dataset import read_rows
from vlcore.errors import CheckpointError, DataError, UsageError
from vlcore.train.loop import Loop

MakeConfig = Callable[..., SftConfig]
ADAPTER = "adapter_model.safetensors"


def read_losses(folder: Path, name: str = "loss") -> list[float]:
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry[name] for entry in entries if name in entry]


def same_file(name: str, first: Path, second: Path) -> bool:
    return (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_batch_size_and_accumulation_can_be_exchanged(make_config: MakeConfig, sft_type: str) -> None:
    runs = [
        vlcore.sft(make_config(sft_type=sft_type, batch_size=rows, gradient_accumulation_steps=4 // rows))
        for rows in (4, 2, 1)
    ]
    losses = [torch.tensor(read_losses(run.folder)) for run in runs]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-5, atol=1e-5)


def test_validation_loss_does_not_depend_on_the_batches(make_config: MakeConfig) -> None:
    runs = [vlcore.sft(make_config(eval_batch_size=rows, dataset_test_ratio=0.4)) for rows in (1, 3)]
    assert runs[0].eval_loss == pytest.approx(runs[1].eval_loss, rel=1e-6)


def test_recomputing_activations_changes_nothing(make_config: MakeConfig) -> None:
    runs = [vlcore.sft(make_config(gradient_checkpointing=on)) for on in (True, False)]
    assert read_losses(runs[0].folder) == pytest.approx(read_losses(runs[1].folder), rel=1e-6)


@pytest.mark.parametrize("sft_type", ["lora", "full"])
@pytest.mark.parametrize("step", [3, 5])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    make_config: MakeConfig, sft_type: str, step: int
) -> None:
    # Ten rows of two a step: step 5 is the end of an epoch, step 3 the middle of one.
    settings = {"sft_type": sft_type, "max_steps": 7, "save_steps": 1, "save_total_limit": 9}
    settings |= {"lora_dropout_p": 0.1} if sft_type == "lora" else {}
    whole = vlcore.sft(make_config(**settings))
    stopped = whole.folder / f"checkpoint-{step}"
    resumed = vlcore.sft(make_config(**settings, resume_from_checkpoint=str(stopped)))
    assert resumed.folder != whole.folder
    name = ADAPTER if sft_type == "lora" else "model.safetensors"
    assert same_file(name, resumed.checkpoint, whole.checkpoint)
    files = [run.checkpoint / "optimizer.pt" for run in (whole, resumed)]
    states = [torch.load(file, weights_only=True)["state"] for file in files]
    assert all(torch.equal(states[0][key]["exp_avg"], states[1][key]["exp_avg"]) for key in states[0])
    assert read_losses(resumed.folder) == read_losses(whole.folder)


def test_latest_goes_on_in_its_folder_from_the_newest_whole_checkpoint(make_config: MakeConfig) -> None:
    whole = vlcore.sft(make_config())
    expected = (whole.checkpoint / ADAPTER).read_bytes()
    damaged = whole.checkpoint / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    shutil.copytree(whole.checkpoint, whole.folder / ".checkpoint-9.part")
    vlcore.sft(make_config(resume_from_checkpoint=str(whole.folder / "checkpoint-2")))
    shutil.rmtree(whole.checkpoint)
    resumed = vlcore.sft(make_config(resume_from_checkpoint=str(whole.folder / "checkpoint-2")))
    assert resumed.folder == whole.folder
    assert (resumed.checkpoint / ADAPTER).read_bytes() == expected
    assert vlcore.sft(make_config(resume_from_checkpoint="latest")).checkpoint.name == "checkpoint-4"


def test_a_broken_checkpoint_is_refused(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config())
    (run.checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.pt"):
        vlcore.sft(make_config(resume_from_checkpoint=str(run.checkpoint)))
    assert read_run(run.checkpoint).adapter == run.checkpoint  # but it can still be used
    (run.checkpoint / ADAPTER).write_bytes(b"")
    with pytest.raises(CheckpointError, match="missing or cut short"):
        read_run(run.checkpoint)


def test_other_adapters_are_refused_on_resume(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config())
    with pytest.raises(UsageError, match="lora_rank 8"):
        vlcore.sft(make_config(lora_rank=4, resume_from_checkpoint=str(run.checkpoint)))


@pytest.mark.parametrize("method", ["_save_optimizer_and_scheduler", "_save_rng_state"])
def test_an_interrupt_while_saving_leaves_nothing_half(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    original = getattr(Loop, method)

    def interrupt(loop: Loop, folder: str) -> None:
        original(loop, folder)
        if loop.state.global_step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # the first asks to stop after the step, the second ends at once

    monkeypatch.setattr(Loop, method, interrupt)
    config = make_config(max_steps=6)
    with pytest.raises(KeyboardInterrupt):
        vlcore.sft(config)
    monkeypatch.undo()
    folder = next(Path(config.output_dir).glob("*/v0-*"))
    assert [path.name for path in folder.glob("*checkpoint*")] + list(folder.glob(".*")) == ["checkpoint-2"]
    resumed = vlcore.sft(make_config(max_steps=6, resume_from_checkpoint="latest"))
    assert resumed.folder == folder
    assert resumed.checkpoint.name == "checkpoint-6"


def test_a_run_leaves_exactly_these_files(make_config: MakeConfig, release: Path) -> None:
    run = vlcore.sft(make_config(report_to=("tensorboard",)))
    assert run.folder.parent.name == release.name
    assert {path.name for path in run.folder.iterdir()} == {
        "best.json", "checkpoint-2", "checkpoint-4", "left_out.txt", "loss.png", "metrics.jsonl", "runs",
        "sft_config.json", "train.log", "val.jsonl",
    }
    state = {
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "sft_config.json", "val.jsonl",
    }
    adapter = {"README.md", "adapter_config.json", ADAPTER}
    assert {path.name for path in run.checkpoint.iterdir()} == state | adapter
    full = vlcore.sft(make_config(sft_type="full"))
    released = {path.name for path in release.iterdir()} | state
    assert {path.name for path in full.checkpoint.iterdir()} - {"vlcore.json"} == released - {"vlcore.json"}
    assert full.folder.name.startswith("v1-")


def test_a_checkpoint_says_what_was_trained(make_config: MakeConfig, release: Path, rows: Path) -> None:
    run = read_run(vlcore.sft(make_config(learning_rate=None, hub_token="secret")).checkpoint)
    assert (run.config.learning_rate, run.config.gradient_accumulation_steps) == (1e-4, 2)
    assert run.model["folder"] == str(release.resolve())
    assert "secret" not in (run.folder / "sft_config.json").read_text()
    kept = read_rows(str(run.validation))
    assert len(kept) == 2
    assert {row.messages for row in kept} <= {row.messages for row in read_rows(str(rows))}


def test_plain_peft_loads_the_adapter(make_config: MakeConfig, release: Path) -> None:
    from peft import PeftModel
    from vlcore.lora import quiet_peft

    run = vlcore.sft(make_config())
    model = vlcore.load_model(release)
    example = model.encode([vlcore.messages.user("Hello")])
    before, _ = model.compute_logits(example)
    with quiet_peft():
        model.module = PeftModel.from_pretrained(model.module, run.checkpoint)
    plain, _ = model.compute_logits(example)
    assert not torch.equal(plain, before)
    torch.testing.assert_close(plain, vlcore.load_model(run.checkpoint).compute_logits(example)[0])


def test_frozen_parts_keep_their_bits(make_config: MakeConfig, release: Path) -> None:
    run = vlcore.sft(make_config(sft_type="full", freeze_vit=True, freeze_aligner=True))
    before, after = load_file(release / "model.safetensors"), load_file(run.checkpoint / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"language_model"}
    with pytest.raises(UsageError, match="nothing is left to train"):
        vlcore.sft(make_config(sft_type="full", freeze_vit=True, freeze_aligner=True, freeze_llm=True))


def test_rows_that_are_too_long_are_an_error_before_anything_is_written(make_config: MakeConfig) -> None:
    config = make_config(max_length=60)
    with pytest.raises(DataError, match="more tokens than --max_length 60"):
        vlcore.sft(config)
    assert not Path(config.output_dir).exists()


def test_the_last_and_the_best_checkpoint_stay(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 2.5])
    original: Any = Loop.evaluation_loop

    def pretend(loop: Loop, *given: Any, **named: Any) -> Any:
        output = original(loop, *given, **named)
        output.metrics["eval_loss"] = next(losses)
        return output

    monkeypatch.setattr(Loop, "evaluation_loop", pretend)
    run = vlcore.sft(make_config(eval_steps=1, save_steps=1))
    assert [path.name for path in list_checkpoints(run.folder)] == ["checkpoint-2", "checkpoint-4"]


def test_settings_without_effect_are_said(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(freeze_vit=True, max_steps=1))
    assert "--freeze_vit has no effect" in (run.folder / "train.log").read_text()


def test_bf16_training_keeps_what_learns_in_float32(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(dtype="bf16", max_steps=1))
    assert {tensor.dtype for tensor in load_file(run.checkpoint / ADAPTER).values()} == {torch.float32}


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_training_goes_on_learning_after_an_evaluation(make_config: MakeConfig, bits: int) -> None:
    run = vlcore.sft(make_config(quantization_bit=bits, save_total_limit=3))
    first, last = (load_file(run.folder / f"checkpoint-{step}" / ADAPTER) for step in (2, 4))
    assert all(not torch.equal(first[name], last[name]) for name in first)
