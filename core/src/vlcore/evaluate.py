"""Answering a data set: rows in, one JSON line a row out, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import DataConfig, GenerateConfig, InferConfig, pick
from vlcore.errors import UsageError, VlcoreError
from vlcore.messages import Message, write_message
from vlcore.metrics import Facts, Figures, Metric, RowScores, check_facts, measure_row, summarise, write_figures

if TYPE_CHECKING:
    from vlcore.dataset import Row
    from vlcore.generate import Reply
    from vlcore.model import VLModel


def find_rows(model: VLModel, config: InferConfig) -> tuple[Row, ...]:
    """The rows to answer: those of `--val_dataset`, else the validation rows of the training.

    Raises:
        DataError: for a row that cannot be used.
        UsageError: when there are none.
    """
    from vlcore.checkpoint import read_run
    from vlcore.dataset import make_read_options, read_rows

    data = DataConfig(image_folder=config.image_folder, system=config.system)
    sources = config.val_dataset or (str(read_run(config.ckpt_dir).validation),)
    options = make_read_options(data, model.checkpoint.family, train=False, record=model.checkpoint.record)
    rows = tuple(row for source in sources for row in read_rows(source, options))
    if not rows:
        raise UsageError(f"data {', '.join(sources)}", "it holds no rows", "give --val_dataset FILE")
    return rows


def check_metrics(metrics: Sequence[Metric], model: VLModel, rows: Iterable[Row]) -> None:
    """Refuses, before a row is answered, metrics that cannot say anything.

    Raises:
        UsageError: when no row has a label, or metrics of boxes meet a family that writes none.
    """
    check_facts(metrics, Facts(grounding=model.checkpoint.family.grounding))
    if metrics and not any(split_label(row.messages)[1] for row in rows):
        names = ", ".join(metric.name for metric in metrics)
        raise UsageError(f"metric {names}", "no row has a label", "give rows that end with an answer, or leave it out")


def choose_result_path(config: InferConfig) -> Path:
    """Where the answers go: `--result_path`, else `infer_result/DATE.jsonl` in `--ckpt_dir` or, without one, here.

    Raises:
        UsageError: when that file exists, or that of its figures.
    """
    usual = Path(config.ckpt_dir) / "infer_result" / f"{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    path = Path(config.result_path) if config.result_path else usual
    for file in (path, name_figures(path)) if config.metric else (path,):
        if file.exists():
            raise UsageError(f"result_path {file}", "it exists", "give another file")
    return path


def name_figures(path: Path) -> Path:
    """The file of the figures beside a file of answers.

    >>> name_figures(Path("out/answers.jsonl")).name
    'answers.metrics.json'
    """
    return path.with_suffix(".metrics.json")


def answer_rows(
    model: VLModel, rows: Sequence[Row], path: Path, config: InferConfig, metrics: Sequence[Metric] = ()
) -> Figures:
    """Answers every row and writes the results beside `path`, renamed into place at the end.

    A line holds `response`, `label`, `messages` and where the row came from, and with metrics its `scores`. A row
    that cannot be answered becomes a line with `error`. With metrics, the figures of all rows go into
    `NAME.metrics.json` beside it.

    Returns:
        The figures, with the number of rows that could not be answered.
    """
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    facts, scored = Facts(grounding=model.checkpoint.family.grounding), list[RowScores]()
    part = path.with_name(path.name + ".part")
    size = config.infer_batch_size
    with part.open("w", encoding="utf8") as file, tqdm(total=len(rows), unit="row", desc="answers") as bar:
        for at in range(0, len(rows), size):
            chunk = rows[at : at + size]
            for line in answer_chunk(model, chunk, pick(GenerateConfig, config)):
                scored.append(measure_row(metrics, line.get("response"), line["label"], facts))
                shown = {**line, "scores": scored[-1].values} if metrics else line
                file.write(json.dumps(shown, ensure_ascii=False) + "\n")
            file.flush()
            bar.update(len(chunk))
    part.replace(path)
    figures = summarise(metrics, scored)
    if metrics:
        save_figures(figures, name_figures(path))
    return figures


def save_figures(figures: Figures, path: Path) -> None:
    """Writes figures as JSON beside a path, renamed into place."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(write_figures(figures), indent=2) + "\n", "utf8")
    part.replace(path)


def answer_chunk(model: VLModel, rows: Sequence[Row], settings: GenerateConfig) -> Iterator[dict[str, Any]]:
    """The result lines of a few rows, answered as one batch; one by one when a row of them fails."""
    questions = [split_label(row.messages) for row in rows]
    try:
        replies: Sequence[Reply | VlcoreError] = model.answer([asked for asked, _ in questions], settings)
    except VlcoreError as error:
        if len(rows) > 1:
            for row in rows:
                yield from answer_chunk(model, [row], settings)
            return
        replies = [error]
    for row, (asked, label), reply in zip(rows, questions, replies, strict=True):
        result = {"error": str(reply)} if isinstance(reply, VlcoreError) else {"response": reply.text.strip()}
        messages = [write_message(message) for message in asked]
        yield {**result, "label": label, "messages": messages, "source": str(row.source), "line": row.line}


def split_label(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str | None]:
    """The turns up to the last question, and the answer behind it when the row has one."""
    if messages[-1].role == "assistant":
        return tuple(messages[:-1]), messages[-1].text
    return tuple(messages), None
