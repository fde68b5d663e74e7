"""What a user types for a source of rows - a file, a folder, a registered name, a hub id - and the records it means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.dataset.files import SUFFIXES, FileRecords
from vlcore.dataset.tables import KINDS, ConvertedRecords, open_table_file, open_table_folder, open_table_hub
from vlcore.errors import DataError, UsageError, suggest_near

if TYPE_CHECKING:
    from vlcore.dataset.rows import Records
    from vlcore.family import DatasetRecord

#: The split that is read when none is named.
SPLIT = "train"
#: Words in the names of files that say which split they belong to.
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
#: Files that the `datasets` library writes about what a folder holds.
_DESCRIPTIONS = {"state.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json"}
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True, slots=True)
class Name:
    """A source as it was typed: `[HF::|MS::]NAME[:SUBSET[:SPLIT]][#N]`.

    Attributes:
        text: all of it but `#N`.
        hub: `HF`, `MS`, or empty.
        name: path, registered name or hub id.
        subset: which part of a data set; empty for its own default.
        split: which split, as the `datasets` library spells it (`train`, `train+test`, `train[:10%]`); empty for
            `train`, or for what the registered name means.
        number: how many rows to sample; 0 for all.
    """

    text: str
    hub: str
    name: str
    subset: str = ""
    split: str = ""
    number: int = 0


def parse_name(source: str) -> Name:
    """The parts of what was typed. A file or folder of the whole name is just that.

    >>> parse_name("HF::owner/name:en:validation#20")
    Name(text='HF::owner/name:en:validation', hub='HF', name='owner/name', subset='en', split='validation', number=20)

    Raises:
        UsageError: for #0.
    """
    text, sign, number = source.rpartition("#")
    if not (sign and number.isdecimal()) or Path(source).exists():
        text, number = source, ""
    elif int(number) == 0:
        raise UsageError(source, "#0 samples no row", "write #N with N of at least 1, or leave it out")
    count = int(number or 0)
    hub, sign, rest = text.partition("::")
    hub, rest = (hub.upper(), rest) if sign and hub.upper() in ("HF", "MS") else ("", text)
    if not hub and Path(text).exists():
        return Name(text, "", text, number=count)
    path, subset, split, *_ = *rest.split(":", 2), "", ""
    return Name(text, hub, path, subset, split, count)


def open_records(name: Name, token: str = "") -> list[Records]:
    """The records that a name means; several when a folder has several files.

    Args:
        name: what was typed.
        token: for private data sets on a hub; else `HF_TOKEN` or `MODELSCOPE_API_TOKEN`.

    Raises:
        UsageError: when nothing of that name exists.
        DataError: when it cannot be read.
        ExtraMissing: when a library for it is not installed.
    """
    path, suffix = Path(name.name), Path(name.name).suffix.lower()
    if name.hub:
        return open_hub(name, name.hub, token)
    if path.is_file() and (name.subset or name.split):
        raise UsageError(f"dataset {name.text}", "a file has no subsets or splits", f"write {path}")
    if path.is_file() and suffix in SUFFIXES:
        return [FileRecords(path, name.text)]
    if path.is_file() and suffix in KINDS:
        return [open_table_file(path, name.text)]
    if path.is_dir():
        return open_folder(path, name)
    if record := find_registered(name.name):
        return open_registered(record, name, token)
    if suffix not in {*SUFFIXES, *KINDS} and _HUB_ID.fullmatch(name.name) and not path.exists():
        return open_hub(name, "", token)
    raise _unknown(name.text, path)


def find_registered(name: str) -> DatasetRecord | None:
    """The registered data set of a name, case ignored."""
    return next((record for record in list_registered() if record.name.lower() == name.lower()), None)


def list_registered() -> tuple[DatasetRecord, ...]:
    """The data sets that plugins registered, by name."""
    from vlcore.plugins import get_registry

    return tuple(sorted((d for p in get_registry().plugins for d in p.datasets), key=lambda record: record.name))


def open_registered(record: DatasetRecord, name: Name, token: str) -> list[Records]:
    """The records of a registered data set, its rows in a known form.

    Raises:
        UsageError: when the hub that is asked does not have it.
    """
    from vlcore.hub import uses_huggingface

    hub = "HF" if uses_huggingface() else "MS"
    hub_id = record.huggingface if hub == "HF" else record.modelscope or record.huggingface
    if not hub_id:
        raise UsageError(f"dataset {record.name}", "it is registered for ModelScope alone", "unset USE_HF")
    found = Name(name.text, hub, hub_id, name.subset or record.subset, name.split or record.split)
    records, convert = open_hub(found, hub, token), record.convert
    return [ConvertedRecords(part, convert, record.name) for part in records] if convert else records


def open_hub(name: Name, hub: str, token: str) -> list[Records]:
    """The records of a data set on a hub: `HF`, `MS`, or the one that is asked for models when empty.

    Raises:
        DataError: when the hub does not give it.
        ExtraMissing: when a library for it is not installed.
    """
    from vlcore.hub import download_dataset, uses_huggingface

    try:
        if hub == "HF" or (not hub and uses_huggingface()):
            return [open_table_hub(name.name, name.subset, name.split or SPLIT, token)]
        return open_folder(download_dataset(name.name, token), replace(name, text=f"MS::{name.name}"))
    except DataError as error:
        near = suggest_near(name.name.rpartition("/")[2], [record.name for record in list_registered()])
        do = f"{error.do}; {near}" if near.startswith("did") else error.do
        raise DataError(error.given, error.why, do) from error


def open_folder(folder: Path, name: Name) -> list[Records]:
    """The records of a folder: `metadata.jsonl` beside pictures, json and jsonl files, or what `datasets` reads.

    Raises:
        DataError: when it has no rows of the split.
        ExtraMissing: when it needs the `datasets` library, which is not installed.
    """
    split, metadata = name.split or SPLIT, folder / "metadata.jsonl"
    if metadata.is_file() and (name.subset or split != SPLIT):
        raise UsageError(f"dataset {name.text}", "a folder with metadata.jsonl has one split", f"write {folder}")
    if metadata.is_file():
        return [ConvertedRecords(FileRecords(metadata, name.text), place_file_name, name.text)]
    texts = list_texts(folder)
    if name.subset or not texts:
        return [open_table_folder(folder, name.subset, split, name.text)]
    chosen = choose_split(texts, split)
    if not chosen:
        raise DataError(f"dataset {name.text}", f"it has no file of split {split}",
                        f"its files are {', '.join(path.name for path in texts[:8])}; give one, or NAME::SPLIT")
    return [FileRecords(path) for path in chosen]


def list_texts(folder: Path) -> list[Path]:
    """The json and jsonl files of a folder that has no other data files, and says nothing itself of what it holds."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    card = folder / "README.md"
    if any(path.suffix.lower() in KINDS or path.name in _DESCRIPTIONS for path in files):
        return []
    if card.is_file() and re.match(r"---\n(?:.*\n)*?configs:", card.read_text("utf-8", "replace")):
        return []
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def choose_split(files: Sequence[Path], split: str) -> list[Path]:
    """The files whose names have the word of a split; all of them are `train` when none has any.

    >>> choose_split([Path("train-1.jsonl"), Path("train-2.jsonl"), Path("val.jsonl")], "validation")
    [PosixPath('val.jsonl')]
    """
    words = {path: set(re.split(r"[^a-z]+", path.stem.lower())) for path in files}
    known = {word for several in _SPLITS.values() for word in several}
    if split == SPLIT and not any(found & known for found in words.values()):
        return list(files)
    return [path for path, found in words.items() if found & {split, *_SPLITS.get(split, ())}]


def place_file_name(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of `metadata.jsonl` with its `file_name` as the picture."""
    if "file_name" not in row or {"image", "images"} & set(row):
        return row
    given = row["file_name"]
    return {"images": given if isinstance(given, list) else [given],
            **{key: value for key, value in row.items() if key != "file_name"}}


def _unknown(text: str, path: Path) -> UsageError:
    if path.is_file():
        return UsageError(f"dataset {text}", "it is no .json, .jsonl, .parquet or .arrow file", "give one of these")
    near = [str(found) for found in path.parent.glob("*.*")] if path.parent.is_dir() and path.suffix else []
    names = [*near, *(record.name for record in list_registered())]
    if path.suffix.lower() in {*SUFFIXES, *KINDS}:
        return UsageError(f"dataset {text}", "there is no such file", suggest_near(str(path), near) if near
                          else "check the path")
    return UsageError(f"dataset {text}", "it is neither a file or folder, nor a registered name or hub id",
                      suggest_near(text, names))
