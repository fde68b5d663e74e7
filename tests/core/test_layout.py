from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from vlcore.layout import LayoutWriter, copy_range, make_layout, read_layout

TENSORS = {
    "wide": torch.arange(6.0).view(2, 3), "narrow": torch.ones(5, dtype=torch.bfloat16), "one": torch.tensor(7),
    "none": torch.zeros(0, 4), "flag": torch.tensor([True, False]),
}


def test_what_is_written_by_a_layout_is_read_by_the_library(tmp_path: Path) -> None:
    path, told = tmp_path / "a.safetensors", []
    outlined = {name: tensor.to("meta") for name, tensor in TENSORS.items()}
    writer = LayoutWriter(path, make_layout(outlined), told.append)
    for name, tensor in TENSORS.items():
        writer.write(name, tensor.reshape(-1).split(2))
    found = load_file(path)
    assert found.keys() == TENSORS.keys() and path.stat().st_size == writer.layout.size
    assert all(torch.equal(t, found[name]) and t.dtype == found[name].dtype for name, t in TENSORS.items())
    assert sum(told) == writer.layout.size - len(writer.layout.header)


@pytest.mark.parametrize("in_kernel", [True, False])
def test_all_but_the_tensors_to_leave_is_copied(
    in_kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_kernel:
        def refuse(*given: object) -> int:
            raise OSError(errno.EXDEV, "other file system")

        monkeypatch.setattr(os, "copy_file_range", refuse)
    source, target, told = tmp_path / "a.safetensors", tmp_path / "b.safetensors", []
    save_file(TENSORS, source, metadata={"format": "pt", "more": "kept"})
    writer = LayoutWriter(target, read_layout(source), told.append)
    writer.copy(source, {"wide", "one"})
    writer.write("one", [torch.tensor(8)])
    found = load_file(target)
    assert torch.equal(found["narrow"], TENSORS["narrow"]) and not found["wide"].any() and found["one"] == 8
    writer.write("wide", [TENSORS["wide"]])
    writer.write("one", [TENSORS["one"]])
    assert target.read_bytes() == source.read_bytes()
    assert sum(told) == source.stat().st_size + 8


@pytest.mark.parametrize("length", [5, 7])
def test_a_tensor_of_another_length_is_refused(length: int, tmp_path: Path) -> None:
    writer = LayoutWriter(tmp_path / "a.safetensors", make_layout(TENSORS), id)
    with pytest.raises(ValueError, match="wide is not as long as its place"):
        writer.write("wide", [torch.zeros(length)])


def test_a_source_that_ends_early_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    with (tmp_path / "a").open("rb") as old, (tmp_path / "b").open("wb") as new, pytest.raises(EOFError):
        copy_range(old.fileno(), new.fileno(), 0, 3)
