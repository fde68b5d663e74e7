from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vlcore.train.ranks import Place, join_processes, place_arguments


def test_a_process_that_nobody_started_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with join_processes() as place:
        assert place == Place() and place.is_first
        assert place.share(lambda: 3) == 3
        place.wait()
    assert not torch.distributed.is_initialized()


def test_a_folder_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    with Place().write_folder(tmp_path / "a") as folder:
        (folder / "x").touch()
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").exists()


def test_accelerate_is_told_of_processes_that_it_overlooks() -> None:
    state = SimpleNamespace(num_processes=1, process_index=0, local_process_index=0)
    arguments: Any = SimpleNamespace(distributed_state=state, fsdp=False)
    place_arguments(arguments, Place(3, 1, 4))
    assert (state.num_processes, state.process_index, state.local_process_index) == (4, 3, 1)


def test_on_a_cpu_accelerate_is_told_of_gpus_or_it_would_not_divide() -> None:
    state = SimpleNamespace(num_processes=2, distributed_type="MULTI_CPU", device=torch.device("cpu"))
    arguments: Any = SimpleNamespace(distributed_state=state, fsdp=True)
    place_arguments(arguments, Place(1, 1, 2))
    assert state.distributed_type == "MULTI_GPU" and state.device.type == "cpu"


def test_each_of_several_processes_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Place(1, 1, 2).choose_device("auto") == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Place(1, 1, 2).choose_device("auto") == "cuda:1"
    assert Place(1, 1, 2).choose_device("cpu") == "cpu"
    assert Place().choose_device("auto") == "auto"
