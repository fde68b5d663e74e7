"""What is to be answered of a data set: a key for each row, what earlier runs left undone, and its batches."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.answers import Kept, check_settings, list_parts, name_part, read_kept, write_settings
from vlcore.config import GenerateConfig, InferConfig, pick
from vlcore.dataset import Row, Rows, Tally
from vlcore.errors import DataError, UsageError
from vlcore.ledger import stamp_media
from vlcore.messages import Message, write_message
from vlcore.metrics import Facts, Metric, check_facts

if TYPE_CHECKING:
    from vlcore.model import VLModel

#: Endings of files that hold weights.
WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class Worklist:
    """What is to be done, the same in all processes.

    Attributes:
        keys: of every row; rows that are alike are told apart by a number.
        batches: the rows that have no answer yet, by their numbers, as they are answered together.
        warnings: what is worth a word.
    """

    keys: Sequence[str]
    batches: Sequence[Sequence[int]]
    warnings: Sequence[str] = ()


def list_work(model: VLModel, rows: Rows, path: Path, config: InferConfig, metrics: Sequence[Metric]) -> Worklist:
    """What is left to do; notes beside the answers how they are made. Errors as of `vlcore.evaluate.answer_rows`."""
    check_facts(metrics, Facts(grounding=model.checkpoint.family.grounding))
    keys, labelled = make_keys(rows)
    if metrics and not labelled:
        names = ", ".join(metric.name for metric in metrics)
        raise UsageError(f"metric {names}", "no row has a label", "give rows that end with an answer, or leave it out")
    settings = describe_run(model, config)
    data = {"rows": len(keys), "digest": hashlib.sha256("\n".join(keys).encode()).hexdigest()}
    kept: dict[str, Kept] = {}
    said: list[str] = []
    if config.resume and (path.exists() or any(file.stat().st_size for file in list_parts(path))):
        before = check_settings(path, settings).get("data")
        kept = read_kept(path, name_part(path))
        if before != data:
            said.append(explain_change(keys, kept))
    else:
        for file in list_parts(path):
            if file != name_part(path):
                file.unlink()
        os.truncate(name_part(path), 0)
    write_settings(path, {**settings, "data": data})
    batches = ([at for at in batch if not is_answered(keys[at], kept)] for batch in make_batches(model, rows, config))
    return Worklist(keys, [batch for batch in batches if batch], said)


def is_answered(key: str, kept: Mapping[str, Kept]) -> bool:
    """Whether a row has an answer; an error is none."""
    return key in kept and kept[key].answered


def explain_change(keys: Sequence[str], kept: Mapping[str, Kept]) -> str:
    """A sentence about answers that were begun with other rows."""
    gone, found = len(kept.keys() - set(keys)), sum(is_answered(key, kept) for key in keys)
    return (f"the data set has changed since its answers were begun: {found} of {len(keys)} rows have an answer; "
            f"{gone} earlier lines are of rows that are no longer there, and are left out")


def make_keys(rows: Rows) -> tuple[list[str], int]:
    """A key for each row, and how many rows have a label.

    It is a digest of the conversation and of the names, sizes and times of its media, with a number behind it for
    rows that are alike; of a row that cannot be read, of its place.
    """
    seen, keys, labelled, tally = Counter[str](), list[str](), 0, Tally()
    for index in range(len(rows)):
        try:
            row = rows[index]
            content: Any = [list(map(write_message, row.messages)), stamp(row)]
            labelled += bool(split_label(row.messages)[1])
            tally.add(row)
        except DataError:
            content = str(rows.locate(index))
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
        seen[digest] += 1
        keys.append(f"{digest}-{seen[digest]}")
    tally.warn_unread()
    return keys, labelled


def stamp(row: Row) -> int:
    """A number that changes when a file of a row's media does; 0 when one is gone."""
    try:
        return stamp_media(row.messages)
    except OSError:
        return 0


def describe_run(model: VLModel, config: InferConfig) -> dict[str, Any]:
    """What answers depend on besides the rows, in plain values: the weights, how they are loaded, how answers are made.

    Weights are known by the names, sizes and times of their files. How many rows are answered at once is left out.
    """
    checkpoint = model.checkpoint
    given = [Path(name) for name in (config.ckpt_dir, config.model) if name]
    folders = [*(folder.path for folder in checkpoint.weight_folders), *given]
    files = {file.resolve() for folder in folders for file in folder.glob("*") if file.suffix in WEIGHTS}
    facts = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    settings = {
        "model": checkpoint.name,
        "weights": hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24],
        "dtype": str(model.module.dtype).removeprefix("torch."),
        "quantization_bit": config.quantization_bit,
        "system": config.system,
        "options": dict(model.frontend.resolve_options().family),
        **asdict(pick(GenerateConfig, config)),
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def make_batches(model: VLModel, rows: Rows, config: InferConfig) -> list[list[int]]:
    """All rows in batches of about the same length, the longest first; one at a time they keep their order.

    The batches are the same whatever is left to do and however many processes there are.
    """
    from vlcore.forecast import forecast_rows

    size, order = config.infer_batch_size, list(range(len(rows)))
    if size > 1:
        lengths = forecast_rows(model.frontend, rows, train=False).lengths
        order.sort(key=lambda index: -lengths[index])
    return [order[at : at + size] for at in range(0, len(order), size)]


def split_label(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str | None]:
    """The turns up to the last question, and the answer behind it when the row has one."""
    if messages[-1].role == "assistant":
        return tuple(messages[:-1]), messages[-1].text
    return tuple(messages), None
