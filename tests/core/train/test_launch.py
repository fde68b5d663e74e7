from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from vlcore.config import SftConfig
from vlcore.errors import UsageError
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


def test_a_divided_model_needs_a_started_process_even_alone() -> None:
    assert launch.needs_processes(SftConfig(deepspeed="default-zero2"))
    assert launch.needs_processes(SftConfig(fsdp="full_shard"))


@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_a_wrong_number_of_processes_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", value)
    with pytest.raises(UsageError, match=f"NPROC_PER_NODE={value}"):
        launch.needs_processes(SftConfig())


def test_one_machine_takes_a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    command = launch.list_command(["sft", "--model", "m"], "cpu")
    assert command[:4] == [sys.executable, "-m", "vlcore.train.launch", "cpu"]
    assert command[4:6] == ["--nproc_per_node=2", "--standalone"]
    assert command[6:] == ["-m", "vlcore.cli", "sft", "--model", "m"]


def test_several_machines_meet_at_the_given_address(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, NNODES="2", NODE_RANK="1", MASTER_ADDR="a.example", MASTER_PORT="1234")
    command = launch.list_command([])
    wanted = ["--nnodes=2", "--node_rank=1", "--master_addr=a.example", "--master_port=1234"]
    assert command[5:9] == wanted and "--standalone" not in command


@pytest.mark.parametrize("missing", ["NODE_RANK", "MASTER_ADDR"])
def test_machines_that_would_not_find_each_other_are_refused(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, NNODES="2", NODE_RANK="1", MASTER_ADDR="a.example")
    monkeypatch.delenv(missing)
    with pytest.raises(UsageError, match=f"NNODES=2 without {missing}"):
        launch.list_command([])


def stand_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Runs these lines of Python in place of torchrun."""
    command = [sys.executable, "-c", "\n".join(("from vlcore.train.launch import *", *lines))]
    monkeypatch.setattr(launch, "list_command", lambda arguments, device_map: command)


def test_the_exit_code_of_the_processes_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, "sys.exit(7)")
    assert launch.start_processes(["sft"]) == (7, "")
    stand_in(monkeypatch, "sys.exit(0)")
    assert launch.start_processes(["sft"]) == (0, "")


def test_the_error_that_others_follow_from_is_told_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        monkeypatch, "leave_failure('RuntimeError: Connection closed by peer', 1)",
        "leave_failure('a.jsonl:3: image', 5)", "leave_failure('a.jsonl:4: image', 6)", "sys.exit(1)")
    assert launch.start_processes(["sft"]) == (5, "a.jsonl:3: image")


def test_an_error_of_a_process_that_nobody_started_stays_with_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(launch.ERROR_FOLDER, raising=False)
    assert not launch.leave_failure("a", 1)
    monkeypatch.setenv(launch.ERROR_FOLDER, str(tmp_path))
    assert launch.leave_failure("a", 3)
    (failure,) = launch.read_failures(tmp_path)
    assert (failure.text, failure.code) == ("a", 3)


def test_more_processes_than_gpus_are_refused_before_they_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(launch.ERROR_FOLDER, str(tmp_path))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    started: list[Any] = []
    monkeypatch.setattr("torch.distributed.run.run", started.append)
    options = ["--nproc_per_node=2", "--standalone", "-m", "vlcore.cli", "--debug"]
    assert launch.run_torchrun("auto", options) == 2 and not started
    (failure,) = launch.read_failures(tmp_path)
    assert failure.text.startswith("NPROC_PER_NODE=2: this machine has 1 GPUs")
    assert launch.run_torchrun("cpu", options) == 0 and len(started) == 1


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "")
    assert launch.hush_others()
    monkeypatch.setenv("RANK", "1")
    with warnings.catch_warnings():
        assert not launch.hush_others()
        warnings.warn("of another process", stacklevel=1)
