"""Tables of the `datasets` library as records: parquet and arrow files, folders, saved and downloaded data sets.

The library maps its files into memory, so a row is read when it is asked for. Pictures and films stay as they are in
the file, encoded bytes or a path. A data set that needs code of its own is refused: the library runs none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.dataset.cache import make_key
from vlcore.dataset.files import Record
from vlcore.dataset.row import Position
from vlcore.errors import DataError, ExtraMissing, VlcoreError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasets import Dataset

    from vlcore.dataset.rows import Records

#: Files that the library reads, by suffix, and how it calls their kind.
KINDS: Mapping[str, str] = {".parquet": "parquet", ".arrow": "arrow"}


class TableRecords:
    """The rows of a table as records; a position reads `SOURCE:ROW`, rows counted from 1.

    Args:
        table: the table.
        source: what positions name; relative media paths start from its parent.
        name: what the user typed for it.
    """

    def __init__(self, table: Dataset, source: Path, name: str) -> None:
        from datasets import Features

        self.name, self.source = name, source
        self.fingerprint = make_key(table._fingerprint, len(table))
        # Rows come as the file has them; only texts that hold json are read.
        self._table = table.with_format("arrow")
        self._features = Features({key: _keep_encoded(feature) for key, feature in table.features.items()})

    def __len__(self) -> int:
        return len(self._table)

    def locate(self, index: int) -> Position:
        """Source and row of a record."""
        return Position(source=self.source, line=int(index) + 1)

    def __getitem__(self, index: int) -> Record:
        """A record, read now.

        Raises:
            DataError: naming its row, when the library cannot read it.
        """
        position = self.locate(index)
        try:
            values = self._features.decode_example(self._table[int(index)].to_pylist()[0])
        except Exception as error:  # pyarrow and the library raise many kinds for damaged files
            raise position.fault("row", f"it cannot be read ({first_line(error)})", "mend the file") from error
        return Record(position, {key: _list_medium(value) for key, value in values.items() if value is not None})


class ConvertedRecords:
    """Records whose rows are brought into a known form.

    Args:
        records: the records as they are.
        convert: row to row, a function of a module, so that workers can have it.
        name: the registered name.
    """

    def __init__(
        self, records: Records, convert: Callable[[Mapping[str, Any]], Mapping[str, Any]], name: str
    ) -> None:
        self._records, self._convert, self.name = records, convert, name
        self.fingerprint = make_key(records.fingerprint, name)

    def __len__(self) -> int:
        return len(self._records)

    def locate(self, index: int) -> Position:
        """Source and row of a record."""
        return self._records.locate(index)

    def __getitem__(self, index: int) -> Record:
        """A record in a known form.

        Raises:
            DataError: naming its row, when it is not as the registered conversion expects.
        """
        record = self._records[index]
        try:
            return Record(record.position, dict(self._convert(record.data)))
        except VlcoreError:
            raise
        except Exception as error:  # the conversion may be a plugin's
            why = f"data set {self.name} has other rows than expected ({type(error).__name__}: {first_line(error)})"
            raise record.position.fault("row", why, "report it to whoever registered the data set") from error


def open_table_file(path: Path, name: str) -> TableRecords:
    """The rows of a parquet or arrow file.

    Raises:
        ExtraMissing: without the `datasets` library.
        DataError: when the library cannot read it.
    """
    with _explained(name):
        from datasets import load_dataset

        table = load_dataset(KINDS[path.suffix.lower()], data_files=str(path.absolute()), split="train")
        return TableRecords(table, path, name)


def open_table_folder(folder: Path, subset: str, split: str, name: str) -> TableRecords:
    """A split of a folder: saved by the library, or data files that it knows, with pictures or without.

    Raises:
        ExtraMissing: without the `datasets` library.
        DataError: when the library finds no data, or not this subset or split.
    """
    with _explained(name):
        from datasets import load_dataset, load_from_disk

        if (folder / "state.json").is_file():
            return TableRecords(load_from_disk(str(folder)), folder / "row", name)
        if (folder / "dataset_dict.json").is_file():
            found = load_from_disk(str(folder))
            if split not in found:
                raise DataError(name, f"it has no split {split}",
                                f"splits are {', '.join(found)}; write {folder}::SPLIT")
            return TableRecords(found[split], folder / split, name)
        table = load_dataset(str(folder.absolute()), subset or None, split=split)
        return TableRecords(table, folder / split, name)


def open_table_hub(hub_id: str, subset: str, split: str, token: str) -> TableRecords:
    """A split of a data set on the Hugging Face hub, downloaded unless the library's cache has it.

    Raises:
        ExtraMissing: without the `datasets` library.
        DataError: when the hub does not give it.
    """
    name = f"HF::{hub_id}"
    with _explained(name):
        from datasets import load_dataset

        table = load_dataset(hub_id, subset or None, split=split, token=token or None)
        return TableRecords(table, Path(name), name)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except VlcoreError:
        raise
    except ImportError as error:
        raise ExtraMissing(f"dataset {name}", "datasets", "datasets") from error
    except Exception as error:
        # The library raises a dozen kinds, and hands on those of parquet, json and the network.
        cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
        reason = " ".join(first_line(cause).split())[:300]
        raise DataError(f"dataset {name}", f"it cannot be read ({reason})",
                        "check its name, subset and split (NAME:SUBSET:SPLIT), its files and the network") from error


def _keep_encoded(feature: Any) -> Any:
    """A feature of a table, so that media in it are not decoded."""
    if isinstance(feature, dict):
        return {key: _keep_encoded(inner) for key, inner in feature.items()}
    if isinstance(feature, list):
        return [_keep_encoded(inner) for inner in feature]
    if hasattr(feature, "feature"):
        return type(feature)(_keep_encoded(feature.feature))
    if hasattr(feature, "decode") and type(feature).__name__ != "Json":
        still = copy(feature)
        still.decode = False
        return still
    return feature


def _list_medium(value: Any) -> Any:
    """A value of a row; a medium alone becomes a list of one, for a path may have a comma in it."""
    found = _find_media(value)
    return [found] if isinstance(found, bytes) or _is_medium(value) else found


def _find_media(value: Any) -> Any:
    """A value with its `{"bytes", "path"}` pairs as the bytes, or the path where there are none."""
    if isinstance(value, list):
        return [_find_media(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _is_medium(value):
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return {key: _find_media(item) for key, item in value.items()}


def _is_medium(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"bytes", "path"}
