from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from vlcore.errors import CheckpointError
from vlcore.family import WeightFolder
from vlcore.shards import (
    describe_tensors,
    list_files,
    open_folders,
    read_places,
    read_tensors,
    write_index,
    write_tensors,
)

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}
NAMES = ["model.safetensors", "pytorch_model.bin"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / name, TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    found = read_tensors(tmp_path / name)
    assert all(torch.equal(tensor, found[key]) and tensor.dtype == found[key].dtype for key, tensor in TENSORS.items())
    assert read_tensors(tmp_path / name, ["b"]).keys() == {"b"}
    described = describe_tensors(tmp_path / name)
    assert described["a"].is_meta and (described["a"].shape, described["b"].dtype) == ((2, 3), torch.bfloat16)
    assert read_places(tmp_path) == {"a": name, "b": name} and list_files(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize("name", NAMES)
def test_a_view_is_written_without_the_rest_of_its_storage(name: str, tmp_path: Path) -> None:
    write_tensors(tmp_path / name, {"a": torch.zeros(100_000)[:4]})
    assert (tmp_path / name).stat().st_size < 4000


def test_a_file_may_be_replaced_by_what_was_read_from_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": torch.zeros(100_000), "b": torch.ones(2)})
    write_tensors(path, read_tensors(path) | {"b": torch.zeros(2)})
    assert float(read_tensors(path)["a"].sum()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_index_tells_the_file_of_each_tensor(name: str, tmp_path: Path) -> None:
    write_index(tmp_path, name, {"b": "two", "a": "one"}, 32)
    written = json.loads((tmp_path / f"{name}.index.json").read_text())
    assert written == {"metadata": {"total_size": 32}, "weight_map": {"a": "one", "b": "two"}}
    assert read_places(tmp_path) == {"a": "one", "b": "two"}


def test_one_file_comes_before_an_index_and_safetensors_before_bin(tmp_path: Path) -> None:
    for name in NAMES[::-1]:
        write_index(tmp_path, name, {"a": f"index of {name}"}, 0)
        assert read_places(tmp_path) == {"a": f"index of {name}"}
        write_tensors(tmp_path / name, TENSORS)
        assert read_places(tmp_path)["a"] == name


def test_folders_are_read_as_one_without_what_the_release_leaves_out(tmp_path: Path) -> None:
    main, apart = tmp_path / "main", tmp_path / "apart"
    for folder, name, tensors in (
        (main, NAMES[0], TENSORS),
        (apart, NAMES[1], {"b": torch.zeros(1), "c": torch.ones(1)}),
    ):
        folder.mkdir()
        write_tensors(folder / name, tensors)
    both = [WeightFolder(path=main, unread=("^b",)), WeightFolder(path=apart, inside="apart")]
    opened = open_folders(both)
    assert sorted(opened) == ["a", "b", "c"]
    assert torch.equal(opened["a"][...], TENSORS["a"]) and opened["b"].shape == (1,)
    with pytest.raises(CheckpointError, match="b is elsewhere, too"):
        open_folders([WeightFolder(path=main), both[1]])


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    assert read_places(tmp_path) == {}
    with pytest.raises(CheckpointError, match="it holds no weights"):
        open_folders([WeightFolder(path=tmp_path)])
