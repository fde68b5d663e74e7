"""Rows that are too long or damaged: what a training does about them, and what it leaves alone."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import vlcore
from safetensors.torch import load_file
from vlcore.config import SftConfig
from vlcore.dataset import read_rows
from vlcore.errors import DataError
from vlcore.train import sft as recipe
from vlcore.train.data import Selection, load_data

MakeConfig = Callable[..., SftConfig]
ADAPTER = "adapter_model.safetensors"
#: Numbers of the rows with a picture, which has that name.
WITH_PICTURE = (1, 2, 3, 5, 6, 7, 9, 10, 11)


@pytest.fixture
def own_rows(rows: Path, tmp_path: Path) -> Path:
    """The rows in a folder of this test, so that it can damage their pictures."""
    shutil.copytree(rows.parent, tmp_path / "rows")
    return tmp_path / "rows" / rows.name


@pytest.fixture
def damage_later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Damages pictures behind their headers when the rows have been judged."""

    def damage(folder: Path, *numbers: int) -> None:
        def load(*given: object, **named: object) -> Selection:
            data = load_data(*given, **named)  # type: ignore[arg-type]
            for number in numbers:
                picture = folder / f"{number}.png"
                picture.write_bytes(picture.read_bytes()[:-40])
            return data

        monkeypatch.setattr(recipe, "load_data", load)

    return damage


def read_losses(folder: Path) -> list[float]:
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry["loss"] for entry in entries if "loss" in entry]


def test_dropped_rows_are_listed(make_config: MakeConfig, rows: Path) -> None:
    run = vlcore.sft(make_config(max_length=60, on_overflow="drop"))
    listed = (run.folder / "left_out.txt").read_text().splitlines()
    assert listed
    assert all(line.startswith(f"{rows}:") and "max_length is 60" in line for line in listed)
    assert f"{len(listed)} left out" in (run.folder / "train.log").read_text()


def test_shrunk_rows_are_trained_on_and_listed(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(max_length=75, on_overflow="shrink"))
    listed = (run.folder / "shrunk.txt").read_text().splitlines()
    assert listed
    assert all("tokens became" in line and "max_num" in line for line in listed)
    assert (run.folder / "left_out.txt").read_text() == ""
    assert f"{len(listed)} reduced to fit" in (run.folder / "train.log").read_text()


def test_a_resumed_run_shrinks_the_same_rows(make_config: MakeConfig) -> None:
    settings = {"max_length": 75, "on_overflow": "shrink", "save_steps": 1, "save_total_limit": 9}
    whole = vlcore.sft(make_config(**settings))
    resumed = vlcore.sft(make_config(**settings, resume_from_checkpoint=str(whole.folder / "checkpoint-2")))
    assert (whole.checkpoint / ADAPTER).read_bytes() == (resumed.checkpoint / ADAPTER).read_bytes()


def test_a_run_without_a_forecast_is_the_run_with_one(make_config: MakeConfig) -> None:
    settings = {"max_length": 75, "on_overflow": "shrink"}
    runs = [vlcore.sft(make_config(**settings, forecast=forecast)) for forecast in (True, False)]
    assert (runs[0].checkpoint / ADAPTER).read_bytes() == (runs[1].checkpoint / ADAPTER).read_bytes()
    assert runs[0].eval_loss == runs[1].eval_loss


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_ends_the_run_with_file_and_line(
    make_config: MakeConfig, own_rows: Path, damage_later: Callable[..., None], workers: int
) -> None:
    damage_later(own_rows.parent, *WITH_PICTURE)
    config = make_config(dataset=(str(own_rows),), dataloader_num_workers=workers, dataset_test_ratio=0.0)
    with pytest.raises(DataError, match=rf"^{own_rows}:\d+: image .*cannot be decoded"):
        vlcore.sft(config)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_rows_are_skipped_and_the_others_stay_in_their_order(
    make_config: MakeConfig, own_rows: Path, damage_later: Callable[..., None], workers: int
) -> None:
    settings = {"dataset": (str(own_rows),), "dataset_test_ratio": 0.0, "max_steps": 12,
                "gradient_accumulation_steps": 1, "learning_rate": 0.0, "bad_rows": "skip",
                "dataloader_num_workers": workers}
    whole = read_losses(vlcore.sft(make_config(**settings)).folder)
    damage_later(own_rows.parent, 2, 7)
    run = vlcore.sft(make_config(**settings))
    losses = read_losses(run.folder)
    changed = [step for step in range(12) if losses[step] != whole[step]]
    assert len(changed) == 2
    assert [losses[step] for step in changed] == [0.0, 0.0]
    skipped = sorted((run.folder / "skipped.txt").read_text().splitlines())
    assert [line.split(": ")[0] for line in skipped] == [f"{own_rows}:3", f"{own_rows}:8"]
    assert "2 rows could not be used and were skipped" in (run.folder / "train.log").read_text()


def test_a_run_of_damaged_rows_alone_learns_nothing_and_has_no_nan(
    make_config: MakeConfig, own_rows: Path, damage_later: Callable[..., None], release: Path
) -> None:
    lines = own_rows.read_text().splitlines(keepends=True)
    own_rows.write_text("".join(line for line in lines if "images" in line))
    damage_later(own_rows.parent, *WITH_PICTURE)
    config = make_config(dataset=(str(own_rows),), bad_rows="skip", weight_decay=0.0)
    run = vlcore.sft(config)
    assert read_losses(run.folder) == [0.0] * 4
    assert run.eval_loss is None
    adapter = load_file(run.checkpoint / ADAPTER)
    assert all(math.isfinite(tensor.sum()) for tensor in adapter.values())
    assert all(not tensor.any() for name, tensor in adapter.items() if "lora_B" in name)


def test_rows_that_cannot_be_read_are_left_out_before_the_run(make_config: MakeConfig, own_rows: Path) -> None:
    (own_rows.parent / "5.png").unlink()
    (own_rows.parent / "6.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of \d+ rows: .*rows.jsonl:\d: images?.*bad_rows skip"):
        vlcore.sft(make_config(dataset=(str(own_rows),), dataset_test_ratio=0.0))
    run = vlcore.sft(make_config(dataset=(str(own_rows),), dataset_test_ratio=0.0, bad_rows="skip"))
    listed = (run.folder / "left_out.txt").read_text().splitlines()
    assert [line.split(": ")[0] for line in listed] == [f"{own_rows}:6", f"{own_rows}:7"]
    assert not (run.folder / "skipped.txt").exists()


def test_rows_to_evaluate_on_need_an_answer(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    path.write_text('{"query": "Open?"}\n{"query": "What?", "response": "That."}\n')
    runs = [vlcore.sft(make_config(val_dataset=(str(path),), forecast=forecast)) for forecast in (True, False)]
    for run in runs:
        assert [row.messages[0].text for row in read_rows(str(run.checkpoint / "val.jsonl"))] == ["What?"]
    assert runs[0].eval_loss == runs[1].eval_loss
    assert "it has no answer" in (runs[0].folder / "left_out.txt").read_text()
    assert "it has no answer" in (runs[0].folder / "train.log").read_text()
    assert "it has no answer" in (runs[1].folder / "skipped.txt").read_text()
