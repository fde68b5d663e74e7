from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vlcore.config import SftConfig
from vlcore.errors import ExtraMissing, UsageError
from vlcore.train import launch

NAMES = ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "RANK")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_one_process_without_deepspeed_trains_itself() -> None:
    assert not launch.needs_processes(SftConfig())


@pytest.mark.parametrize("values", [{"NPROC_PER_NODE": "2"}, {"NNODES": "2"}])
def test_several_processes_are_started(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, **values)
    assert launch.needs_processes(SftConfig())
    monkeypatch.setenv("RANK", "0")
    assert not launch.needs_processes(SftConfig())


def test_deepspeed_needs_a_started_process_even_alone() -> None:
    assert launch.needs_processes(SftConfig(deepspeed="default-zero2"))


@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_a_wrong_number_of_processes_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", value)
    with pytest.raises(UsageError, match=f"NPROC_PER_NODE={value}"):
        launch.needs_processes(SftConfig())


def test_one_machine_takes_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    command = launch.list_command(["sft", "--model", "m"])
    assert command[1:5] == ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    assert command[5:] == ["-m", "vlcore.cli", "sft", "--model", "m"]


def test_several_machines_meet_at_the_given_address(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, NNODES="2", NODE_RANK="1", MASTER_ADDR="a.example", MASTER_PORT="1234")
    command = launch.list_command([])
    wanted = ["--nnodes=2", "--node_rank=1", "--master_addr=a.example", "--master_port=1234"]
    assert command[4:8] == wanted and "--standalone" not in command


def test_the_exit_code_of_the_processes_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(command: list[str], env: dict[str, str], check: bool) -> SimpleNamespace:
        seen.update(command=command, env=env)
        return SimpleNamespace(returncode=7)

    monkeypatch.setattr(subprocess, "run", run)
    assert launch.start_processes(["sft"]) == 7
    assert seen["command"][0] == sys.executable and seen["env"]["OMP_NUM_THREADS"]


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "")
    assert launch.hush_others()
    monkeypatch.setenv("RANK", "1")
    assert not launch.hush_others()


@pytest.fixture
def with_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


@pytest.mark.usefixtures("with_deepspeed")
@pytest.mark.parametrize(
    ("preset", "stage", "offload"),
    [("default-zero2", 2, False), ("default-zero3", 3, False), ("default-zero2-offload", 2, True),
     ("default-zero3-offload", 3, True)],
)
def test_presets_name_a_stage_and_what_is_offloaded(preset: str, stage: int, offload: bool) -> None:
    read = launch.read_deepspeed(SftConfig(deepspeed=preset))
    assert read is not None and read["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in read["zero_optimization"]) is offload
    assert ("offload_param" in read["zero_optimization"]) is (offload and stage == 3)


@pytest.mark.usefixtures("with_deepspeed")
def test_a_file_is_read_and_its_open_batch_size_left_to_follow(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": "auto", "zero_optimization": {"stage": 1}}), encoding="utf8")
    assert launch.read_deepspeed(SftConfig(deepspeed=str(path))) == {"zero_optimization": {"stage": 1}}
    path.write_text("{", encoding="utf8")
    with pytest.raises(UsageError, match="it is not JSON"):
        launch.read_deepspeed(SftConfig(deepspeed=str(path)))


@pytest.mark.usefixtures("with_deepspeed")
def test_an_unknown_preset_brings_the_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean default-zero"):
        launch.read_deepspeed(SftConfig(deepspeed="default-zero4"))


def test_deepspeed_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"vlcore\[deepspeed\]"):
        launch.read_deepspeed(SftConfig(deepspeed="default-zero2"))
    assert launch.read_deepspeed(SftConfig()) is None
