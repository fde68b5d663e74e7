from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlcore.carry import carry_index, carry_weights, make_rooms
from vlcore.family import WeightFolder
from vlcore.shards import read_places, write_index, write_tensors

TENSORS = {"a": torch.arange(6.0).bfloat16(), "b": torch.ones(4), "old": torch.zeros(2)}


@pytest.fixture(params=["model.safetensors", "pytorch_model.bin"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> WeightFolder:
    path = tmp_path / "release"
    path.mkdir()
    write_tensors(path / request.param, TENSORS)
    return WeightFolder(path=path, inside="inside", unread=("^old",))


def test_weights_are_carried_with_room_for_what_changes(folder: WeightFolder, tmp_path: Path) -> None:
    rooms = carry_weights([folder], tmp_path / "out", ["a", "old"], id)
    assert rooms.keys() == {"a"} and rooms["a"].dtype == torch.bfloat16
    rooms["a"].fill("a", torch.full((6,), 1 + 2**-9))
    found = load_file(tmp_path / "out" / "inside" / "model.safetensors")
    assert torch.equal(found["a"], torch.ones(6, dtype=torch.bfloat16))
    assert torch.equal(found["b"], TENSORS["b"]) and torch.equal(found["old"], TENSORS["old"])


def test_an_unchanged_file_keeps_every_byte(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"made": "elsewhere"})
    carry_weights([WeightFolder(path=tmp_path)], tmp_path / "out", [], id)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_the_index_of_bin_files_names_the_safetensors_written_for_them(tmp_path: Path) -> None:
    write_index(tmp_path, "pytorch_model.bin", {"a": "pytorch_model-00001-of-00002.bin"}, 12)
    (tmp_path / "out").mkdir()
    carry_index(tmp_path, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text("utf8"))
    assert written == {"metadata": {"total_size": 12}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}


def test_an_index_that_one_file_makes_idle_is_not_carried(tmp_path: Path) -> None:
    write_index(tmp_path, "model.safetensors", {"a": "x"}, 12)
    write_tensors(tmp_path / "model.safetensors", TENSORS)
    (tmp_path / "out").mkdir()
    carry_index(tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_large_models_get_several_new_files(tmp_path: Path) -> None:
    # Room costs nothing on a disk until it is filled.
    large = {name: torch.empty(2**30, dtype=torch.float32, device="meta") for name in ("a", "b")}
    rooms = make_rooms(large, tmp_path, id)
    assert {room.writer.path.name for room in rooms.values()} == set(read_places(tmp_path).values())
    assert len(list(tmp_path.glob("model-0000?-of-00002.safetensors"))) == 2
