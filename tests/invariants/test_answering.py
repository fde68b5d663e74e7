"""Data sets answered by runs that are killed, go on, or share the work: each row exactly once, in order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from vlcore.answers import list_parts, name_part, name_settings, open_part
from vlcore.cli import main
from vlcore.config import InferConfig, write_config
from vlcore.errors import DataError, UsageError
from vlcore.evaluate import answer_rows, choose_result_path, find_rows
from vlcore.metrics import choose_metrics
from vlcore.model import VLModel, load_model

KILLS = 20
#: Answers a data set in a forked child that is killed after a random time, again and again, and once to the end; every
#: other time not before it has written something. The fork spares what importing and loading would take.
KILLER = """
import json, os, random, signal, sys, threading, time
import torch
torch.set_num_threads(1)
from pathlib import Path
from tqdm import tqdm
from vlcore.config import InferConfig, read_config
from vlcore.evaluate import answer_rows, choose_result_path, find_rows
from vlcore.model import load_model

config = read_config(InferConfig, json.loads(sys.argv[1]))
kills, spread, chance = int(sys.argv[2]), float(sys.argv[3]), random.Random(int(sys.argv[4]))
model = load_model(config.model, dtype="fp32")
model.chat("?")

def is_running(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

part = Path(config.result_path + ".part")
measure = lambda: part.stat().st_size if part.exists() else -1
landed, begun, sizes = 0, 0, set()
for number in range(kills + 1):
    child = os.fork()
    if not child:
        tqdm.set_lock(threading.RLock())  # a bar's own lock is shared by forks, and stays held by one that is killed
        sys.stdout = sys.stderr = open(os.devnull, "w")
        os.dup2(sys.stdout.fileno(), 1); os.dup2(sys.stdout.fileno(), 2)
        code = 1
        try:
            answer_rows(model, find_rows(model, config), choose_result_path(config), config)
            code = 0
        finally:
            os._exit(code)
    if number < kills:
        while number % 2 and is_running(child) and measure() <= begun:  # until it has written something
            time.sleep(0.001)
        time.sleep(chance.uniform(0, spread))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    landed += os.WIFSIGNALED(status)
    begun = measure()
    sizes.add(begun)
print(landed, os.waitstatus_to_exitcode(status), len(sizes))
"""
#: Questions about the fixture's pictures; one row is there three times, one cannot be read, one has no picture.
ROWS = 30


@pytest.fixture(scope="module")
def model(release: Path) -> VLModel:
    return load_model(release, dtype="fp32")


@pytest.fixture
def config(release: Path, rows: Path, tmp_path: Path) -> InferConfig:
    shutil.copytree(rows.parent, tmp_path / "rows")
    (tmp_path / "rows" / "bad.png").write_text("no picture", "utf8")
    lines: list[dict[str, Any]] = [
        {"query": f"<image>What is it, {'please, ' * (number % 5)}{number}?", "response": f"It is {number}.",
         "images": [f"{number % 3 + 1}.png"]} for number in range(ROWS - 6)]
    lines += [lines[4], {"query": "Without a picture?"}, {"query": "<image>Bad?", "images": ["bad.png"]}, lines[4]]
    lines += [{"query": "Gone?", "images": ["gone.png"]}, {"query": ["no text"]}]
    path = tmp_path / "rows" / "asked.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return InferConfig(model=str(release), val_dataset=(str(path),), result_path=str(tmp_path / "whole.jsonl"),
                       infer_batch_size=4, max_new_tokens=6, temperature=0.0, dtype="fp32")


def run(model: VLModel, config: InferConfig, *metrics: str) -> Any:
    path = choose_result_path(config)
    return answer_rows(model, find_rows(model, config), path, config, choose_metrics(metrics))


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf8").splitlines()]


def test_a_run_killed_twenty_times_answers_every_row_once_and_as_one_that_was_not(
    model: VLModel, config: InferConfig, tmp_path: Path
) -> None:
    config = replace(config, infer_batch_size=2)
    begun = time.monotonic()
    run(model, config)
    spread = 2 * (time.monotonic() - begun) / (ROWS / 2)
    killed = replace(config, result_path=str(tmp_path / "killed.jsonl"), resume=True)
    text = json.dumps(write_config(killed))
    done = subprocess.run(
        [sys.executable, "-c", KILLER, text, str(KILLS), str(spread), "7"], capture_output=True, text=True, check=True)
    landed, code, sizes = map(int, done.stdout.split())
    assert (code, sizes >= KILLS // 4) == (0, True)
    assert landed >= KILLS // 2
    assert Path(killed.result_path).read_bytes() == Path(config.result_path).read_bytes()
    assert not list_parts(Path(killed.result_path))
    lines = read_lines(killed.result_path)
    assert len(lines) == len({line["key"] for line in lines}) == ROWS
    assert [line["line"] for line in lines] == list(range(1, ROWS + 1))


def stop_after(model: VLModel, config: InferConfig, batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends a run in the midst of the batch after these."""
    answer, asked = model.answer, []

    def count(*given: Any) -> Any:
        asked.append(given)
        if len(asked) > batches:
            raise KeyboardInterrupt
        return answer(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model, "answer", count)
        run(model, config)


def test_only_what_is_missing_or_failed_is_asked(
    model: VLModel, config: InferConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model, config, "exact_match")
    whole = read_lines(config.result_path)
    assert ["error" in line for line in whole] == [n in (26, 28, 29) for n in range(ROWS)]
    asked: list[int] = []
    monkeypatch.setattr(model, "answer", lambda batch, settings: asked.append(len(batch)) or answer(batch, settings))
    answer = VLModel.answer.__get__(model)
    figures = run(model, replace(config, resume=True), "exact_match")
    assert sum(asked) == 2  # a picture that is none, and one that is gone; another row cannot even be read
    assert read_lines(config.result_path) == whole and figures.failed == 3
    shutil.copy(Path(config.val_dataset[0]).with_name("1.png"), Path(config.val_dataset[0]).with_name("bad.png"))
    with pytest.warns(UserWarning, match=r"data set has changed .*: 27 of 30 rows have an answer; 1 earlier lines"):
        assert run(model, replace(config, resume=True)).failed == 2
    assert "response" in read_lines(config.result_path)[26]


def test_half_a_line_at_the_end_is_answered_again(
    model: VLModel, config: InferConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(config.result_path)
    stop_after(model, config, 3, monkeypatch)
    part = name_part(path)
    kept = len(read_lines(part))
    assert kept == 12 and not path.exists()
    part.write_bytes(part.read_bytes()[:-20])
    run(model, replace(config, resume=True))
    resumed = path.read_bytes()
    path.unlink()
    run(model, config)
    assert path.read_bytes() == resumed


def test_a_stopped_run_is_not_begun_anew_unasked_and_is_found_by_itself(
    model: VLModel, config: InferConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stop_after(model, config, 1, monkeypatch)
    with pytest.raises(UsageError, match=r"a run was stopped before it was complete; give --resume true"):
        choose_result_path(config)
    folder = tmp_path / "infer_result"
    folder.mkdir()
    for name in (name_part(Path(config.result_path)), name_settings(Path(config.result_path))):
        shutil.move(name, folder / name.name)
    nameless = replace(config, ckpt_dir=str(tmp_path), result_path="", resume=True)
    assert choose_result_path(nameless) == folder / "whole.jsonl"
    (folder / "whole.jsonl.part").unlink()
    with pytest.raises(UsageError, match="holds no run that was stopped"):
        choose_result_path(nameless)


def test_a_run_that_is_refused_leaves_nothing_in_the_way_of_the_next(model: VLModel, config: InferConfig) -> None:
    Path(config.val_dataset[0]).write_text(json.dumps({"query": "Without a label?"}) + "\n", "utf8")
    with pytest.raises(UsageError, match="no row has a label"):
        run(model, config, "exact_match")
    assert run(model, config).rows == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"temperature": 0.5}, r"temperature 0\.0, now 0\.5"), ({"system": "Be brief."}, "system '', now 'Be brief.'"),
     ({"max_new_tokens": 7}, "max_new_tokens 6, now 7")],
)
def test_other_settings_are_refused(
    model: VLModel, config: InferConfig, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], said: str
) -> None:
    stop_after(model, config, 1, monkeypatch)
    before = name_part(Path(config.result_path)).read_bytes()
    with pytest.raises(UsageError, match=f"its answers were made with .*{said}"):
        run(model, replace(config, resume=True, **changed))
    assert name_part(Path(config.result_path)).read_bytes() == before
    run(model, replace(config, resume=True, infer_batch_size=3))


def test_other_weights_are_refused(model: VLModel, config: InferConfig, tmp_path: Path) -> None:
    run(model, config)
    shutil.copytree(model.checkpoint.folder, tmp_path / "other")
    (tmp_path / "other" / "more.safetensors").write_bytes(b"")
    other = replace(config, model=str(tmp_path / "other"), resume=True)
    with pytest.raises(UsageError, match="its answers were made with weights"):
        run(model, other)


def test_rows_that_are_gone_or_new_are_said(
    model: VLModel, config: InferConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(model, config, 3, monkeypatch)
    data = Path(config.val_dataset[0])
    lines = data.read_text("utf8").splitlines(keepends=True)
    data.write_text("".join([json.dumps({"query": "New?"}) + "\n", *lines[10:]]), "utf8")
    with pytest.warns(UserWarning, match="the data set has changed since its answers were begun: "):
        run(model, replace(config, resume=True))
    answered = read_lines(config.result_path)
    assert [line["line"] for line in answered] == list(range(1, len(lines) - 8))
    fresh = replace(config, result_path=config.result_path + ".fresh.jsonl")
    run(model, fresh)
    assert [line.get("response") for line in read_lines(fresh.result_path)] == [
        line.get("response") for line in answered]


def test_what_is_no_answer_is_named_by_file_and_line(model: VLModel, config: InferConfig) -> None:
    run(model, config)
    path = Path(config.result_path)
    path.write_text('{"key": "a"}\n{"response": "b"}\n', "utf8")
    with pytest.raises(DataError, match=r"whole\.jsonl:2: it is no answer"):
        run(model, replace(config, resume=True))
    name_settings(path).unlink()
    with pytest.raises(UsageError, match="does not say how its answers were made"):
        run(model, replace(config, resume=True))


def test_two_runs_do_not_write_one_file(model: VLModel, config: InferConfig) -> None:
    path = Path(config.result_path)
    run(model, config)
    with open_part(path, 1) as other:
        other.write(b"{")
        with pytest.raises(UsageError, match="another run is writing it"):
            run(model, replace(config, resume=True))
    with open_part(path), pytest.raises(UsageError, match="another run is writing it"):
        run(model, replace(config, resume=True))


def test_two_processes_answer_as_one_and_go_on_after_one(
    model: VLModel, config: InferConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(model, config)
    shared = replace(config, result_path=str(tmp_path / "shared.jsonl"))
    stop_after(model, shared, 2, monkeypatch)
    words = ["--metric", "exact_match", "--resume", "true"]
    for name in ("model", "result_path", "infer_batch_size", "max_new_tokens", "temperature", "dtype"):
        words += [f"--{name}", str(getattr(shared, name))]
    done = subprocess.run(
        [sys.executable, "-m", "vlcore.cli", "infer", *words, "--val_dataset", *shared.val_dataset],
        env=os.environ | {"NPROC_PER_NODE": "2"}, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("answers: ") == 1 and "exact_match" in done.stdout
    lines = read_lines(shared.result_path)
    assert all(line.pop("scores") is not None for line in lines)
    assert lines == read_lines(config.result_path)
    assert not list_parts(Path(shared.result_path))


def test_several_processes_are_for_data_sets(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="NPROC_PER_NODE has no effect"):
        main(["infer", "--model", str(release), "--question", "What?", "--max_new_tokens", "1"])


def test_rows_that_are_alike_have_an_answer_each(model: VLModel, config: InferConfig) -> None:
    run(model, config)
    keys = Counter(line["key"].split("-")[0] for line in read_lines(config.result_path))
    assert max(keys.values()) == 3
