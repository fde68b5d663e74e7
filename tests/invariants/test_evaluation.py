"""Evaluations while training: they change nothing, answer as `vlcore infer`, and decide what stays and when to stop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vlcore
from vlcore.checkpoint import list_checkpoints
from vlcore.config import GenerateConfig, SftConfig
from vlcore.errors import DataError, UsageError
from vlcore.messages import read_message
from vlcore.metrics import choose_metrics, measure
from vlcore.train.loop import Loop

MakeConfig = Callable[..., SftConfig]
ADAPTER = "adapter_model.safetensors"
ANSWERING: dict[str, Any] = {"predict_with_generate": True, "metric": ("cer", "exact_match"), "max_new_tokens": 5}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def read_figures(folder: Path, name: str) -> list[float]:
    return [entry[name] for entry in read_lines(folder / "metrics.jsonl") if name in entry]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives evaluations the figures of a test, the first ones to the first steps."""

    def use(name: str, values: list[float]) -> None:
        original: Any = Loop.evaluation_loop

        def evaluate(loop: Loop, *given: Any, **named: Any) -> Any:
            output = original(loop, *given, **named)
            output.metrics[name] = values[loop.state.global_step - 1]
            return output

        monkeypatch.setattr(Loop, "evaluation_loop", evaluate)

    return use


@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_evaluations_change_nothing(make_config: MakeConfig, rows: Path, sft_type: str) -> None:
    # Dropout draws random numbers in every step; workers are started with one more.
    shared: dict[str, Any] = {"sft_type": sft_type, "val_dataset": (f"{rows}#3",), "lora_dropout_p": 0.1}
    shared |= {"lora_dropout_p": 0.0} if sft_type == "full" else {}
    plain = vlcore.sft(make_config(**shared, eval_steps=9))
    watched = vlcore.sft(make_config(**shared, **ANSWERING, eval_steps=1, eval_batch_size=2))
    name = ADAPTER if sft_type == "lora" else "model.safetensors"
    assert (watched.checkpoint / name).read_bytes() == (plain.checkpoint / name).read_bytes()
    assert read_figures(watched.folder, "loss") == read_figures(plain.folder, "loss")
    if sft_type == "full":
        names = {path.name for path in plain.checkpoint.iterdir()}
        assert {path.name for path in watched.checkpoint.iterdir()} == names


def test_answers_and_figures_are_those_of_the_checkpoint(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(**ANSWERING, dataset_test_ratio=0.4, eval_batch_size=2, learning_rate=3e-2))
    lines = read_lines(run.folder / "answers" / "step-4.jsonl")
    assert [line["row"] for line in lines] == [0, 1, 2, 3]
    model = vlcore.load_model(run.checkpoint)
    settings = GenerateConfig(max_new_tokens=5, temperature=0.0)
    answers = [model.answer([list(map(read_message, line["messages"]))], settings)[0].text.strip() for line in lines]
    assert answers == [line["response"] for line in lines]
    figures = measure(choose_metrics(ANSWERING["metric"]), answers, [line["label"] for line in lines]).metrics
    assert read_figures(run.folder, "eval_cer")[-1] == figures["cer"].value == pytest.approx(
        json.loads((run.folder / "answers" / "step-4.metrics.json").read_text())["metrics"]["cer"]["value"])
    assert lines[0]["scores"].keys() == {"cer", "exact_match"}
    assert "validation cer" in (run.folder / "train.log").read_text()
    assert {path.name for path in (run.folder / "sheets").iterdir()} == {
        "step-2.html", "step-2.png", "step-4.html", "step-4.png"}


def test_a_limit_and_no_sheet(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(
        predict_with_generate=True, max_new_tokens=2, dataset_test_ratio=0.4, predict_limit=3, sheet_rows=0,
        max_steps=1))
    lines = read_lines(run.folder / "answers" / "step-1.jsonl")
    assert [(line["row"], "scores" in line) for line in lines] == [(0, False), (1, False), (2, False)]
    assert "answers were cut at their longest" in (run.folder / "train.log").read_text()
    assert not (run.folder / "sheets").exists()


@pytest.mark.parametrize("forecast", [True, False])
def test_answers_are_given_to_rows_reduced_as_for_the_loss(
    make_config: MakeConfig, tmp_path: Path, forecast: bool
) -> None:
    talk = [{"role": role, "content": "word " * 8} for role in ("user", "assistant") * 3]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    run = vlcore.sft(make_config(
        **ANSWERING, val_dataset=(str(tmp_path / "talk.jsonl"),), max_length=120, on_overflow="truncate", max_steps=1,
        forecast=forecast))
    (line,) = read_lines(run.folder / "answers" / "step-1.jsonl")
    assert [message["role"] for message in line["messages"]] == ["user"]


def test_a_damaged_picture_is_no_answer(make_config: MakeConfig, rows: Path, tmp_path: Path) -> None:
    shutil.copytree(rows.parent, tmp_path / "rows")
    picture = tmp_path / "rows" / "2.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    shared: dict[str, Any] = {"val_dataset": (str(tmp_path / "rows" / rows.name),), "max_steps": 1, **ANSWERING}
    run = vlcore.sft(make_config(**shared, bad_rows="skip"))
    lines = read_lines(run.folder / "answers" / "step-1.jsonl")
    assert ["error" in line for line in lines] == [number == 2 for number in range(12)]
    figures = json.loads((run.folder / "answers" / "step-1.metrics.json").read_text())
    assert figures["metrics"]["cer"]["rows"] == figures["rows"] == 11
    assert len((run.folder / "skipped.txt").read_text().splitlines()) == 2  # in the loss and in the answers
    with pytest.raises(DataError, match=r"rows\.jsonl:3: image"):
        vlcore.sft(make_config(**shared))


@pytest.mark.parametrize(
    ("metric", "best"), [("cer", 3), ("eval_cer", 3), ("exact_match", 1)],
)
def test_the_metric_asked_for_decides_which_checkpoint_stays(
    make_config: MakeConfig, pretend: Callable[..., None], metric: str, best: int
) -> None:
    name = f"eval_{metric.removeprefix('eval_')}"
    pretend(name, [0.9, 0.8, 0.1, 0.5, 0.4])
    run = vlcore.sft(make_config(
        **ANSWERING, metric_for_best_model=metric, eval_steps=1, save_steps=1, max_steps=5, predict_limit=1))
    assert [path.name for path in list_checkpoints(run.folder)] == [f"checkpoint-{best}", "checkpoint-5"]
    assert run.best is not None and (run.best.step, run.best.metric) == (best, name)
    assert json.loads((run.folder / "best.json").read_text())["checkpoint"] == f"checkpoint-{best}"


def test_a_better_evaluation_without_a_checkpoint_is_said(
    make_config: MakeConfig, pretend: Callable[..., None]
) -> None:
    pretend("eval_loss", [1.0, 3.0, 4.0, 2.0])
    run = vlcore.sft(make_config(eval_steps=1))
    assert run.best is not None and (run.best.step, run.best.better) == (4, 1)
    assert "step 1 had a better eval_loss" in (run.folder / "train.log").read_text()


@pytest.mark.parametrize("resumed", [2, 3, 5])
def test_patience_ends_a_run_where_it_ends_a_resumed_one(
    make_config: MakeConfig, pretend: Callable[..., None], resumed: int
) -> None:
    pretend("eval_loss", [5.0, 4.0, 4.5, 3.9, 4.2, 1.0, 1.0])
    settings: dict[str, Any] = {
        "eval_steps": 1, "save_steps": 1, "max_steps": 7, "save_total_limit": 9, "early_stopping_patience": 3,
        "early_stopping_threshold": 0.2, "lora_dropout_p": 0.1, "logging_steps": 4,
    }
    whole = vlcore.sft(make_config(**settings))
    assert whole.checkpoint.name == "checkpoint-5"
    assert "stopped after checkpoint-5: 3 evaluations brought no better eval_loss" in (
        whole.folder / "train.log").read_text()
    assert [entry["step"] for entry in read_lines(whole.folder / "metrics.jsonl") if "loss" in entry] == [4, 5]
    again = vlcore.sft(make_config(
        **settings, resume_from_checkpoint=str(whole.folder / f"checkpoint-{resumed}")))
    assert again.checkpoint.name == "checkpoint-5"
    assert (again.checkpoint / ADAPTER).read_bytes() == (whole.checkpoint / ADAPTER).read_bytes()


def test_a_run_that_never_logged_before_it_gave_up_has_a_loss(
    make_config: MakeConfig, pretend: Callable[..., None]
) -> None:
    pretend("eval_loss", [1.0, 2.0, 3.0, 4.0])
    run = vlcore.sft(make_config(eval_steps=1, save_steps=9, logging_steps=9, early_stopping_patience=1))
    assert (run.checkpoint.name, run.loss > 0) == ("checkpoint-2", True)


def test_two_processes_answer_as_one(make_config: MakeConfig, rows: Path, tmp_path: Path) -> None:
    # Twelve rows by three in two processes; the first learning rate of a warm-up is 0, so weights are the same bits.
    config = make_config(
        **ANSWERING, val_dataset=(str(rows),), eval_batch_size=5, max_steps=1, warmup_ratio=1.0,
        output_dir=str(tmp_path / "one"), gradient_accumulation_steps=2)
    one = vlcore.sft(config)
    words = ["sft", "--predict_with_generate", "true", "--metric", *config.metric]
    for name in ("model", "max_new_tokens", "eval_batch_size", "max_steps", "warmup_ratio"):
        words += [f"--{name}", str(getattr(config, name))]
    words += ["--dataset", str(rows), "--val_dataset", str(rows), "--output_dir", str(tmp_path / "two"),
              "--gradient_accumulation_steps", "1", "--report_to", "none"]
    environment = os.environ | {"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "vlcore.cli", *words], env=environment, capture_output=True,
                          text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (two,) = (tmp_path / "two").glob("*/v0-*")
    for name in ("eval_cer", "eval_exact_match"):
        assert read_figures(two, name) == read_figures(one.folder, name)
    assert (two / "answers" / "step-1.jsonl").read_text() == (one.folder / "answers" / "step-1.jsonl").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metric_for_best_model": "cer"}, "it is not measured"),
        ({**ANSWERING, "metric_for_best_model": "eval_cre"}, "did you mean eval_cer"),
        ({"predict_with_generate": True, "metric": ("exact_mach",)}, "did you mean exact_match"),
        ({"report_to": ("tensorbord",)}, "did you mean tensorboard"),
        ({"report_to": ("none", "tensorboard")}, "none stands alone"),
    ],
)
def test_what_cannot_be_measured_or_reported_is_said_at_once(
    make_config: MakeConfig, given: dict[str, Any], said: str
) -> None:
    config = make_config(**given)
    with pytest.raises(UsageError, match=said):
        vlcore.sft(config)
    assert not Path(config.output_dir).exists()
