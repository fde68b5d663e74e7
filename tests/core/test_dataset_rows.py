"""Rows that are read when they are asked for: order, sampling, weights, splitting, copies in other processes."""

import json
import multiprocessing
import pickle
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vlcore.config import DataConfig, SftConfig
from vlcore.dataset import ReadOptions, Rows, Tally, open_rows, read_datasets
from vlcore.dataset.files import FileRecords
from vlcore.errors import DataError
from vlcore.family import ModelFamily, Parts

FAMILY = ModelFamily(
    name="toy", recognise=lambda config, folder: False, parts=Parts(language=("lm",), vision=("v",), projector=("p",))
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_file(name: str, count: int, **more: Any) -> str:
    lines = (json.dumps({"query": f"{name} {n}", "response": "x", **more}) for n in range(count))
    Path(name).write_text("\n".join(lines))
    return name


def texts(rows: Rows) -> list[str]:
    return [row.messages[0].text for row in rows]


def read_text(rows: Rows, index: int) -> str:
    return rows[index].messages[0].text


def test_no_row_is_read_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    plain = FileRecords.__getitem__
    monkeypatch.setattr(FileRecords, "__getitem__", lambda self, index: read.append(index) or plain(self, index))
    config = DataConfig(dataset=(write_file("a.jsonl", 50),), dataset_weights=(1.5,))
    train, validation = read_datasets(config, FAMILY)
    assert (str(train.locate(0)), len(train), len(validation), read) == ("a.jsonl:1", 73, 1, [])
    assert (read_text(train, 3), len(read)) == ("a.jsonl 3", 1)


def test_a_bad_row_leaves_the_others_readable() -> None:
    write_file("a.jsonl", 3)
    lines = Path("a.jsonl").read_text().splitlines()
    Path("a.jsonl").write_text("\n".join([lines[0], "nonsense", lines[2]]))
    rows = open_rows(["a.jsonl"])
    assert [read_text(rows, 0), read_text(rows, 2)] == ["a.jsonl 0", "a.jsonl 2"]
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        rows[1]


def test_rows_can_be_chosen_cut_and_counted_from_the_end() -> None:
    rows = open_rows([write_file("a.jsonl", 4), write_file("b.jsonl", 2)])
    assert texts(rows) == ["a.jsonl 0", "a.jsonl 1", "a.jsonl 2", "a.jsonl 3", "b.jsonl 0", "b.jsonl 1"]
    assert read_text(rows, -1) == "b.jsonl 1"
    assert texts(rows[1:6:2]) == ["a.jsonl 1", "a.jsonl 3", "b.jsonl 1"]
    assert texts(rows.select([5, 0, 0])) == texts(rows.select(np.array([5, 0, 0]))) == ["b.jsonl 1"] + ["a.jsonl 0"] * 2
    assert (rows.place(5), str(rows.locate(5)), len(rows.select(()))) == ((1, 1), "b.jsonl:2", 0)
    with pytest.raises(IndexError):
        rows[6]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_another_process_reads_the_same_rows(name: str) -> None:
    write_file("a.jsonl", 3)
    Path("a.json").write_text("[" + Path("a.jsonl").read_text().replace("\n", ",\n") + "]")
    rows = open_rows([name])
    assert read_text(rows, 0) == "a.jsonl 0"  # the file is open here
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(read_text, [rows] * 3, range(3))) == texts(rows)
    assert texts(pickle.loads(pickle.dumps(rows))) == texts(rows)


def test_weights_repeat_rows_and_choose_a_part_by_the_seed() -> None:
    sources = [write_file("a.jsonl", 10), write_file("b.jsonl", 10), write_file("c.jsonl", 3)]
    counts = Counter(texts(open_rows(sources, weights=(2, 0.5, 1))))
    assert [counts[f"a.jsonl {n}"] for n in range(10)] == [2] * 10
    chosen = [text for text in counts if text.startswith("b")]
    assert len(chosen) == 5 and {counts[text] for text in chosen} == {1}
    assert [counts[f"c.jsonl {n}"] for n in range(3)] == [1] * 3
    again, other = open_rows(sources, weights=(2, 0.5, 1)), open_rows(sources, ReadOptions(seed=7), (2, 0.5, 1))
    assert Counter(texts(again)) == counts != Counter(texts(other))


def test_a_folder_has_one_weight(folder: Path) -> None:
    Path("many").mkdir()
    for name in ("many/1.jsonl", "many/2.jsonl"):
        write_file(name, 2)
    counts = Counter(texts(open_rows(["many", write_file("b.jsonl", 1)], weights=(2, 3))))
    assert sorted(counts.values()) == [2, 2, 2, 2, 3]


def test_no_row_that_is_repeated_is_in_both_parts_of_a_split() -> None:
    config = DataConfig(dataset=(write_file("a.jsonl", 20),), dataset_weights=(3,), dataset_test_ratio=0.5)
    train, validation = read_datasets(config, FAMILY)
    assert (len(train), len(validation)) == (30, 10)
    assert not set(texts(train)) & set(texts(validation))


def test_the_rows_of_a_seed_are_the_same_from_version_to_version() -> None:
    source = write_file("a.jsonl", 20)
    train, validation = read_datasets(DataConfig(dataset=(f"{source}#6",), dataset_test_ratio=0.3), FAMILY)
    assert [row.line for row in open_rows([f"{source}#6"])] == [1, 3, 4, 8, 9, 17]
    assert ([row.line for row in train], [row.line for row in validation]) == ([1, 3, 4, 8, 9], [17])


def test_no_sources_are_no_rows() -> None:
    assert len(open_rows([])) == 0 and list(open_rows([])) == []


def test_the_hubs_token_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    records = FileRecords(Path(write_file("a.jsonl", 3)))
    monkeypatch.setattr("vlcore.dataset.names.open_table_hub", lambda *given: seen.append(given) or records)
    read_datasets(SftConfig(dataset=("HF::toy/rows",), val_dataset=("HF::toy/more:en:dev",), hub_token="t"), FAMILY)
    assert seen == [("toy/rows", "", "train", "t"), ("toy/more", "en", "dev", "t")]


def test_a_source_has_the_fingerprint_of_its_content() -> None:
    rows = open_rows([write_file("a.jsonl", 2), write_file("b.jsonl", 2)])
    first, second = (source.records.fingerprint for source in rows.sources)
    Path("b.jsonl").write_bytes(Path("a.jsonl").read_bytes())
    assert first != second and open_rows(["b.jsonl"]).sources[0].records.fingerprint == first


def test_a_tally_says_what_nothing_reads_and_where_media_were_put(caplog: pytest.LogCaptureFixture) -> None:
    loose = replace(ReadOptions(), check_media=False)
    write_file("a.jsonl", 2, imagess=["a.png"], id=3)
    rows = open_rows(["a.jsonl", write_file("b.jsonl", 3, images=["a.png"])], loose)
    one, two = Tally(), Tally()
    for index in range(len(rows)):
        (one if index % 2 else two).add(rows[index])
    one.update(two)
    tally = Tally(json.loads(json.dumps(one.write())))
    tally.warn_unread()
    (said,) = caplog.messages
    assert said.startswith("a.jsonl, 2 rows: keys that are not read: id in 2, imagess (did you mean images")
    assert tally.describe_placement() == "media without tags, 3 of 5 rows: all at the start of the last query"
