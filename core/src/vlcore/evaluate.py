"""Answering a data set: rows in, one JSON line a row out, in the order of the input, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.answers import Line, append, list_parts, name_part, open_part, read_kept, write_answers
from vlcore.config import DataConfig, GenerateConfig, InferConfig, pick
from vlcore.dataset import Row, Rows, make_read_options, open_rows
from vlcore.errors import DataError, UsageError, VlcoreError
from vlcore.messages import write_message
from vlcore.metrics import Facts, Figures, Metric, RowScores, measure_row, summarise, write_figures
from vlcore.train.ranks import Place
from vlcore.worklist import Worklist, list_work, split_label

if TYPE_CHECKING:
    from vlcore.generate import Reply
    from vlcore.model import VLModel


def find_rows(model: VLModel, config: InferConfig) -> Rows:
    """The rows to answer, none read yet: those of `--val_dataset`, else the validation rows of the training.

    Raises:
        DataError: for a source that cannot be read.
        UsageError: when there are none.
    """
    from vlcore.checkpoint import read_run

    data = DataConfig(image_folder=config.image_folder, system=config.system)
    sources = config.val_dataset or (str(read_run(config.ckpt_dir).validation),)
    options = make_read_options(data, model.checkpoint.family, train=False, record=model.checkpoint.record)
    # A file that is missing is the fault of its row's answer; the row, and its label, can be read.
    rows = open_rows(sources, replace(options, check_media=False), token=config.hub_token)
    if not len(rows):
        raise UsageError(f"data {', '.join(sources)}", "it holds no rows", "give --val_dataset FILE")
    return rows


def choose_result_path(config: InferConfig) -> Path:
    """Where the answers go: `--result_path`, else `infer_result/DATE.jsonl` in `--ckpt_dir` or, without one, here.

    With `--resume`, the file of the run that goes on: without `--result_path`, the newest that is not complete.

    Raises:
        UsageError: when that file exists, or that of its figures, or there is no run to go on with.
    """
    folder = Path(config.ckpt_dir) / "infer_result"
    if config.resume:
        return Path(config.result_path) if config.result_path else find_unfinished(folder)
    path = Path(config.result_path) if config.result_path else folder / f"{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    for file in (path, name_figures(path)) if config.metric else (path,):
        if file.exists():
            raise UsageError(f"result_path {file}", "it exists", "give another file, or --resume true to go on with it")
    if list_parts(path):
        raise UsageError(f"result_path {path}", "a run was stopped before it was complete",
                         f"give --resume true to go on, or remove {name_part(path)}")
    return path


def find_unfinished(folder: Path) -> Path:
    """The file of the newest run in a folder that was stopped.

    Raises:
        UsageError: when there is none.
    """
    parts = sorted(folder.glob("*.part"), key=lambda path: path.stat().st_mtime)
    if not parts:
        raise UsageError("resume", f"{folder} holds no run that was stopped", "give --result_path, or leave it out")
    return parts[-1].with_suffix("")


def name_figures(path: Path) -> Path:
    """The file of the figures beside a file of answers.

    >>> name_figures(Path("out/answers.jsonl")).name
    'answers.metrics.json'
    """
    return path.with_suffix(".metrics.json")


def answer_rows(
    model: VLModel,
    rows: Rows,
    path: Path,
    config: InferConfig,
    metrics: Sequence[Metric] = (),
    place: Place | None = None,
) -> Figures:
    """Answers every row, and writes the results as they come; at the end they take the order of the rows.

    A line holds `response`, `label`, `messages`, where the row came from and its `key`, and with metrics its
    `scores`. A row that cannot be read or answered becomes a line with `error`. With metrics, the figures of all
    rows go into `NAME.metrics.json` beside it. Rows of about the same length are answered together, the longest
    first; with `config.resume`, only those that earlier runs left without an answer.

    Args:
        model: answers.
        rows: as `find_rows` gives them.
        path: the file of answers.
        config: how to answer, and whether to go on.
        metrics: what the answers are held to.
        place: this process among those that share the work; all of them see the same files.

    Returns:
        The figures, with the number of rows that could not be answered.

    Raises:
        UsageError: for metrics that can say nothing, earlier answers made with other settings, or another run that
            writes the same file.
    """
    import warnings

    place = place or Place()
    with ExitStack() as stack:
        part = stack.enter_context(open_part(path)) if place.is_first else None
        work = place.share(lambda: list_work(model, rows, path, config, metrics), slow=True)
        part = part or stack.enter_context(open_part(path, place.rank))
        for text in work.warnings if place.is_first else ():
            warnings.warn(text, stacklevel=2)
        for lines in answer_share(model, rows, work, config, place):
            append(part, lines)
        place.wait(slow=True)
        return place.share(lambda: finish(model, rows, work, path, metrics), slow=True)


def answer_share(
    model: VLModel, rows: Rows, work: Worklist, config: InferConfig, place: Place
) -> Iterator[list[Line]]:
    """The result lines of this process's batches, one after the other."""
    from tqdm import tqdm

    mine = work.batches[place.rank :: place.world]
    settings = pick(GenerateConfig, config)
    with tqdm(total=sum(map(len, mine)), unit="row", desc="answers") as bar:
        for batch in mine:
            yield list(answer_batch(model, rows, {index: work.keys[index] for index in batch}, settings))
            bar.update(len(batch))


def answer_batch(model: VLModel, rows: Rows, keys: Mapping[int, str], settings: GenerateConfig) -> Iterator[Line]:
    """The result lines of a few rows, given by their numbers with their keys."""
    readable: dict[int, Row] = {}
    for index, key in keys.items():
        try:
            readable[index] = rows[index]
        except DataError as error:
            position = rows.locate(index)
            facts: Line = {"label": None, "messages": [], "source": str(position.source), "line": position.line}
            yield {"error": str(error), **facts, "key": key}
    for index, line in zip(readable, answer_chunk(model, list(readable.values()), settings), strict=True):
        yield {**line, "key": keys[index]}


def answer_chunk(model: VLModel, rows: Sequence[Row], settings: GenerateConfig) -> Iterator[Line]:
    """The result lines of a few rows, answered as one batch; one by one when a row of them fails."""
    if not rows:
        return
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


def finish(model: VLModel, rows: Rows, work: Worklist, path: Path, metrics: Sequence[Metric]) -> Figures:
    """Writes the lines of all processes in the order of the rows, and with metrics the figures beside them."""
    facts, scored = Facts(grounding=model.checkpoint.family.grounding), list[RowScores]()
    kept = read_kept(path, held=name_part(path))

    def score() -> Iterator[Line]:
        for index, key in enumerate(work.keys):
            position = rows.locate(index)  # a row may have moved since it was answered
            line = kept[key].read() | {"source": str(position.source), "line": position.line}
            line.pop("scores", None)
            scored.append(measure_row(metrics, line.get("response"), line["label"], facts))
            yield {**line, "scores": scored[-1].values} if metrics else line

    write_answers(path, score())
    figures = summarise(metrics, scored)
    if metrics:
        save_figures(figures, name_figures(path))
    return figures


def save_figures(figures: Figures, path: Path) -> None:
    """Writes figures as JSON beside a path, renamed into place."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(write_figures(figures), indent=2) + "\n", "utf8")
    part.replace(path)
