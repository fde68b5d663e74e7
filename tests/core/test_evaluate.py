"""Answering a data set with metrics: scores in the lines, figures beside them, and what is refused before a row."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vlcore.boxes import Grounding, read_marks
from vlcore.cli import main
from vlcore.config import InferConfig
from vlcore.errors import UsageError
from vlcore.evaluate import answer_rows, choose_result_path, find_rows, name_figures
from vlcore.metrics import choose_metrics, measure
from vlcore.model import VLModel, load_model
from vlcore_internvl.tiny import write_tiny

ROWS: tuple[dict[str, Any], ...] = (
    {"query": "One?", "response": "1"}, {"query": "Two?", "response": "two"}, {"query": "Three?"},
    {"query": "<image>Four?", "response": "4", "images": ["bad.png"]},
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_tiny(folder, tile=28, width=64, layers=1)
    return folder


@pytest.fixture(scope="module")
def model(release: Path) -> VLModel:
    return load_model(str(release), dtype="fp32")


def write_rows(folder: Path, *rows: object) -> str:
    (folder / "bad.png").write_text("no image", "utf8")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    return str(path)


def configure(folder: Path, *rows: object, **more: Any) -> InferConfig:
    path = str(folder / "answers.jsonl")
    return InferConfig(val_dataset=(write_rows(folder, *rows),), result_path=path, max_new_tokens=3, **more)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


@pytest.mark.parametrize("size", [1, 3])
def test_lines_hold_the_scores_of_their_rows_and_the_figures_are_those_of_the_lines(
    model: VLModel, tmp_path: Path, size: int
) -> None:
    config = configure(tmp_path, *ROWS, infer_batch_size=size)
    metrics = choose_metrics(["exact_match", "cer", "count_accuracy"])
    figures = answer_rows(model, find_rows(model, config), choose_result_path(config), config, metrics)
    lines = read_lines(tmp_path / "answers.jsonl")
    assert figures == measure(metrics, [line.get("response") for line in lines], [line["label"] for line in lines])
    assert (figures.rows, figures.unlabelled, figures.failed) == (4, 1, 1)
    assert [set(line["scores"]) for line in lines] == [{"exact_match", "cer", "count_accuracy"}] * 2 + [
        set(), {"exact_match", "cer", "count_accuracy"}]
    assert lines[3]["scores"] == {"exact_match": 0.0, "cer": 1.0, "count_accuracy": 0.0} and "error" in lines[3]
    saved = json.loads((tmp_path / "answers.metrics.json").read_text("utf8"))
    assert saved["metrics"]["cer"]["value"] == figures.metrics["cer"].value
    assert (saved["rows"], saved["failed"], saved["unlabelled"], saved["interval"]["level"]) == (4, 1, 1, 0.95)
    assert not list(tmp_path.glob("*.part"))


def test_without_metrics_lines_have_no_scores_and_no_figures_are_written(model: VLModel, tmp_path: Path) -> None:
    config = configure(tmp_path, *ROWS)
    figures = answer_rows(model, find_rows(model, config), choose_result_path(config), config)
    assert all("scores" not in line for line in read_lines(tmp_path / "answers.jsonl"))
    assert figures.failed == 1 and not figures.metrics
    assert not name_figures(tmp_path / "answers.jsonl").exists()


def test_boxes_are_read_in_the_marks_of_the_models_family(
    model: VLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "<box>(0,0),(10,10)</box>"
    marked = with_grounding(model, Grounding(read=read_marks, write_box=str, write_label=str))
    monkeypatch.setattr(marked, "answer", lambda asked, settings: [SimpleNamespace(text=text)])
    config, metrics = configure(tmp_path, ROWS[0] | {"response": text}), choose_metrics(["box_iou@0.5", "box_iou"])
    figures = answer_rows(marked, find_rows(model, config), choose_result_path(config), config, metrics)
    assert [figure.value for figure in figures.metrics.values()] == [1.0, 1.0]


def with_grounding(model: VLModel, grounding: Grounding | None) -> VLModel:
    """The model as one of a family that writes boxes in another way, or none."""
    checkpoint = model.checkpoint
    family = replace(checkpoint.family, grounding=grounding)
    return VLModel(replace(model.frontend, checkpoint=replace(checkpoint, family=family)), model.module)


def test_metrics_of_boxes_are_refused_before_the_first_row_of_a_family_without_boxes(
    model: VLModel, tmp_path: Path
) -> None:
    config, metrics = configure(tmp_path, ROWS[0]), choose_metrics(["box_iou", "cer"])
    with pytest.raises(UsageError, match="metric box_iou: models of this family write no boxes"):
        answer_rows(with_grounding(model, None), find_rows(model, config), tmp_path / "a.jsonl", config, metrics)


def test_rows_of_which_none_has_a_label_are_refused_with_metrics(model: VLModel, tmp_path: Path) -> None:
    config = configure(tmp_path, {"query": "One?"})
    with pytest.raises(UsageError, match="metric cer: no row has a label"):
        answer_rows(model, find_rows(model, config), tmp_path / "a.jsonl", config, choose_metrics(["cer"]))


def test_figures_that_exist_are_not_overwritten(tmp_path: Path) -> None:
    config = configure(tmp_path, *ROWS)
    (tmp_path / "answers.metrics.json").write_text("{}", "utf8")
    assert choose_result_path(config) == tmp_path / "answers.jsonl"
    with pytest.raises(UsageError, match=r"answers\.metrics\.json: it exists"):
        choose_result_path(replace(config, metric=("cer",)))


def test_a_table_is_printed_with_what_is_in_no_figure(
    capsys: pytest.CaptureFixture[str], release: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    words = ["--model", str(release), "--val_dataset", write_rows(tmp_path, *ROWS), "--result_path", str(path)]
    with pytest.raises(SystemExit) as ended, pytest.warns(UserWarning, match="1 of 4 rows .*the worst score"):
        main(["infer", *words, "--metric", "exact_match", "cer", "--max_new_tokens", "3"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    table = shown[shown.index("metrics: ") :].splitlines()
    assert table[0] == f"metrics: {tmp_path / 'out.metrics.json'}"
    assert table[1].split() == ["metric", "value", "95%", "interval", "better", "rows"]
    assert [line.split()[0] for line in table[2:4]] == ["exact_match", "cer"]
    assert [line.split()[-2:] for line in table[2:4]] == [["higher", "3"], ["lower", "3"]]
    assert table[4] == "[INFO] 1 of 4 rows have no label; they are in no figure."


def test_a_misspelt_metric_is_refused_before_the_model_is_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["infer", "--model", "no-such-model", "--val_dataset", "no.jsonl", "--metric", "exact_macth"])
    assert ended.value.code == 2
    assert "did you mean exact_match?" in capsys.readouterr().err


def test_a_metric_without_a_data_set_has_no_effect_and_is_said_aloud(release: Path) -> None:
    with pytest.raises(SystemExit), pytest.warns(UserWarning, match="--metric has no effect: no data set is answered"):
        main(["infer", "--model", str(release), "--metric", "cer", "--question", "What?", "--max_new_tokens", "1"])
