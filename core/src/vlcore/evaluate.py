"""Answering a data set: rows in, one JSON line a row out, in the order of the input."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import DataConfig, GenerateConfig, InferConfig, pick
from vlcore.errors import UsageError, VlcoreError
from vlcore.messages import Message, write_message

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
    options = make_read_options(data, model.checkpoint.family, train=False)
    rows = tuple(row for source in sources for row in read_rows(source, options))
    if not rows:
        raise UsageError(f"data {', '.join(sources)}", "it holds no rows", "give --val_dataset FILE")
    return rows


def choose_result_path(config: InferConfig) -> Path:
    """Where the answers go: `--result_path`, else `infer_result/DATE.jsonl` in `--ckpt_dir` or, without one, here.

    Raises:
        UsageError: when that file exists.
    """
    usual = Path(config.ckpt_dir) / "infer_result" / f"{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    path = Path(config.result_path) if config.result_path else usual
    if path.exists():
        raise UsageError(f"result_path {path}", "it exists", "give another file")
    return path


def answer_rows(model: VLModel, rows: Sequence[Row], path: Path, config: InferConfig) -> int:
    """Answers every row and writes the results beside `path`, renamed into place at the end.

    A line holds `response`, `label`, `messages` and where the row came from. A row that cannot be answered
    becomes a line with `error`.

    Returns:
        How many rows could not be answered.
    """
    from tqdm import tqdm

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    size, failed = config.infer_batch_size, 0
    with part.open("w", encoding="utf8") as file, tqdm(total=len(rows), unit="row", desc="answers") as bar:
        for at in range(0, len(rows), size):
            chunk = rows[at : at + size]
            for line in answer_chunk(model, chunk, pick(GenerateConfig, config)):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                failed += "error" in line
            file.flush()
            bar.update(len(chunk))
    part.replace(path)
    return failed


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
