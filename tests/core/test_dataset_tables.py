"""Parquet files, folders and saved data sets, through the datasets library; pictures stay encoded."""

import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PilImage
from vlcore.dataset import Row, open_rows, write_row
from vlcore.errors import DataError, ExtraMissing, UsageError
from vlcore.media import open_image
from vlcore.messages import Image, read_message

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return tmp_path


def draw(colour: str = "red") -> bytes:
    file = io.BytesIO()
    PilImage.new("RGB", (4, 2), colour).save(file, "PNG")
    return file.getvalue()


def make_table(count: int = 3) -> Any:
    pictures = [{"bytes": draw(), "path": "a.png"} for _ in range(count)]
    rows = {"query": [f"q{n}" for n in range(count)], "response": ["r"] * count, "image": pictures}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


def read_one(source: str, index: int = 0) -> Row:
    return open_rows([source])[index]


def fault_of(source: str) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        list(open_rows([source]))
    return str(caught.value)


def test_a_parquet_file_gives_rows_with_their_pictures() -> None:
    make_table().to_parquet("a.parquet")
    rows = open_rows(["a.parquet"])
    assert (len(rows), str(rows[1]), str(rows.locate(2))) == (3, "a.parquet:2", "a.parquet:3")
    (picture, text) = rows[1].messages[0].content
    assert text.text == "q1" and picture == Image(draw())
    assert open_image(picture).size == (4, 2)
    assert pickle.loads(pickle.dumps(rows))[2] == rows[2]
    assert len(open_rows(["a.parquet#2"])) == 2


def test_pictures_of_a_table_survive_being_written_down() -> None:
    make_table().to_parquet("a.parquet")
    row = read_one("a.parquet")
    plain = json.loads(json.dumps(write_row(row)))["messages"][0]
    (picture, _) = read_message(plain).content
    assert open_image(picture).getpixel((0, 0)) == (255, 0, 0)


def test_messages_and_lists_of_pictures_are_read_from_a_table() -> None:
    talk = [{"role": "user", "content": "<image><image>differ?"}, {"role": "assistant", "content": "Yes."}]
    pictures = [{"bytes": draw("red"), "path": None}, {"bytes": draw("blue"), "path": None}]
    table = datasets.Dataset.from_dict({"messages": [talk], "images": [pictures]})
    table.cast_column("images", datasets.List(datasets.Image())).to_parquet("a.parquet")
    assert read_one("a.parquet").messages[0].media == (Image(draw("red")), Image(draw("blue")))


def test_content_of_several_kinds_is_read_from_a_table() -> None:
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]},
                      {"role": "assistant", "content": "d"}]},
    ]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    datasets.load_dataset("json", data_files="a.jsonl", split="train").save_to_disk("saved")
    assert [row.messages[0].text for row in open_rows(["saved"])] == ["a", "c"]


def test_relative_paths_of_a_parquet_file_start_from_its_folder() -> None:
    Path("data").mkdir()
    Path("data/a,b.png").write_bytes(draw())
    table = datasets.Dataset.from_dict({"query": ["q"], "response": ["r"], "images": [["a,b.png"]]})
    table.to_parquet("data/a.parquet")
    assert read_one("data/a.parquet").messages[0].media == (Image(Path.cwd() / "data" / "a,b.png"),)


def test_splits_of_a_folder_are_told_by_the_names_of_its_files() -> None:
    Path("data").mkdir()
    make_table(3).to_parquet("data/train-0.parquet")
    make_table(2).to_parquet("data/train-1.parquet")
    make_table(1).to_parquet("data/validation.parquet")
    assert (len(open_rows(["data"])), len(open_rows(["data::validation"]))) == (5, 1)
    assert str(open_rows(["data"]).locate(4)) == "data/train:5"
    assert 'Unknown split "test"' in fault_of("data::test")


def test_saved_data_sets_are_read_with_and_without_splits() -> None:
    make_table(2).save_to_disk("plain")
    datasets.DatasetDict({"train": make_table(3), "val": make_table(1)}).save_to_disk("several")
    assert [len(open_rows([source])) for source in ("plain", "several", "several::val")] == [2, 3, 1]
    assert fault_of("several::dev").endswith("it has no split dev; splits are train, val; write several::SPLIT")


def test_a_folder_of_pictures_with_metadata_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    Path("pets").mkdir()
    Path("pets/a,b.png").write_bytes(draw())
    row = {"file_name": "a,b.png", "query": "q", "response": "r"}
    Path("pets/metadata.jsonl").write_text(f'{json.dumps(row)}\n{{"file_name": "no.png"}}')
    rows = open_rows(["pets"])
    assert rows[0].messages[0].media == (Image(Path.cwd() / "pets" / "a,b.png"),)
    with pytest.raises(DataError, match=r"pets/metadata\.jsonl:2: row: it has no conversation"):
        rows[1]
    assert "has one split" in fault_of("pets::test")


def test_pictures_in_folders_of_splits_are_read_through_the_library() -> None:
    for split in ("train", "test"):
        Path("pets", split).mkdir(parents=True)
        Path("pets", split, "a.png").write_bytes(draw())
        Path("pets", split, "metadata.jsonl").write_text(
            json.dumps({"file_name": "a.png", "query": split, "response": "r"}))
    message = read_one("pets::test").messages[0]
    assert message.text == "test" and open_image(message.media[0]).size == (4, 2)


@pytest.mark.parametrize(
    ("names", "source", "count"),
    [
        (["one.jsonl", "two.json"], "data", 2),
        (["train.jsonl", "val.jsonl"], "data", 1),
        (["train-1.jsonl", "train-2.jsonl", "val.jsonl"], "data::validation", 1),
    ],
)
def test_json_files_of_a_folder_are_read_by_split(names: list[str], source: str, count: int) -> None:
    Path("data").mkdir()
    for name in names:
        row = '{"query": "a", "response": "b"}'
        Path("data", name).write_text(f"[{row}]" if name.endswith("json") else row)
    rows = open_rows([source])
    assert len(rows) == count and rows[0].source.parent == Path("data")
    assert "it has no file of split test; its files are" in fault_of("data::test")


def test_a_folder_that_describes_itself_is_left_to_the_library() -> None:
    Path("data/parts").mkdir(parents=True)
    Path("data/dataset_infos.json").write_text("{}")
    make_table(2).to_parquet("data/parts/train-0.parquet")
    Path("card").mkdir()
    for name in ("one", "two"):
        Path("card", f"{name}.jsonl").write_text(json.dumps({"query": name, "response": "b"}))
    parts = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("one", "two"))
    Path("card/README.md").write_text(f"---\nlicense: mit\nconfigs:\n{parts}---\n")
    assert len(open_rows(["data"])) == 2
    assert [row.messages[0].text for row in open_rows(["card:two"])] == ["two"]
    assert "Config name is missing" in fault_of("card")


def test_json_files_beside_pictures_are_the_rows_of_a_folder() -> None:
    Path("data/images").mkdir(parents=True)
    Path("data/images/a.png").write_bytes(draw())
    Path("data/train.json").write_text('[{"query": "a", "response": "b", "images": ["images/a.png"]}]')
    assert read_one("data").messages[0].media == (Image(Path.cwd() / "data" / "images" / "a.png"),)


def test_a_changed_parquet_file_is_another_source() -> None:
    make_table(2).to_parquet("a.parquet")
    first = open_rows(["a.parquet"]).sources[0].records.fingerprint
    assert open_rows(["a.parquet"]).sources[0].records.fingerprint == first
    make_table(3).to_parquet("a.parquet")
    changed = open_rows(["a.parquet"])
    assert len(changed) == 3 and changed.sources[0].records.fingerprint != first


def test_the_users_folder_is_left_as_it_was(folder: Path) -> None:
    Path("data").mkdir()
    make_table().to_parquet("data/a.parquet")
    list(open_rows(["data/a.parquet"]))
    assert [path.name for path in Path("data").iterdir()] == ["a.parquet"]


def test_a_row_without_its_picture_is_a_row_of_text() -> None:
    table = datasets.Dataset.from_dict({"query": ["q"], "response": ["r"], "image": [None]})
    table.cast_column("image", datasets.Image()).to_parquet("a.parquet")
    assert read_one("a.parquet").messages[0].media == ()


@pytest.mark.parametrize(
    ("content", "source", "why"),
    [
        (b"not a table", "a.parquet", "it cannot be read (Parquet magic bytes not found"),
        (None, "empty", "it cannot be read (The directory at"),
        (None, "a.parquet", "there is no such file"),
    ],
)
def test_what_the_library_cannot_read_is_one_fault(content: bytes | None, source: str, why: str) -> None:
    Path("empty").mkdir()
    if content:
        Path(source).write_bytes(content)
    said = fault_of(source)
    assert why in said and "\n" not in said


def test_a_table_without_rows_is_refused() -> None:
    Path("data").mkdir()
    make_table(1).to_parquet("data/a.parquet")
    assert "corresponds to no data" in fault_of("data::train[:0]")


def test_a_data_set_that_needs_a_program_is_refused() -> None:
    Path("data").mkdir()
    Path("data/data.py").write_text("raise SystemExit('it ran')")
    assert "it cannot be read" in fault_of("data")


def test_a_row_that_the_library_cannot_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make_table(2).save_to_disk("saved")
    rows = open_rows(["saved"])
    monkeypatch.setattr(rows.sources[0].records, "_table", {})
    with pytest.raises(DataError, match=r"saved/row:2: row: it cannot be read"):
        rows[1]


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.parquet").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ExtraMissing, match=r"run: pip install 'vlcore\[datasets\]'"):
        open_rows(["a.parquet"])
