from __future__ import annotations

import json
from pathlib import Path

import pytest
from vlcore.checkpoint import find_base, list_checkpoints, load_adapter, new_folder, read_run, remove_folder
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, UsageError


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint-1"
    with new_folder(target) as part:
        (part / "file").write_text("x")
        assert not target.exists()
    assert (target / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_folder_that_was_not_finished_is_gone(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "checkpoint-1") as part:
        (part / "file").write_text("x")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_replaced_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it exists"), new_folder(tmp_path):
        pass


def test_a_failure_while_replacing_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    with pytest.raises(OSError), new_folder(target, overwrite=True):
        raise OSError
    assert list(tmp_path.iterdir()) == [target]


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    remove_folder(tmp_path / "checkpoint-1")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_listed_by_step(tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-9-merged", ".checkpoint-11.part"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_a_folder_that_training_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"it has no sft_config\.json"):
        read_run(tmp_path)
    with pytest.raises(CheckpointError, match="there is no such folder"):
        read_run(tmp_path / "none")
    (tmp_path / "checkpoint-2").mkdir()
    with pytest.raises(CheckpointError, match="give a checkpoint in it: checkpoint-2"):
        read_run(tmp_path)


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sft_config.json").write_text(json.dumps({"config": {"colour": 1}, "model": {}, "files": {}}))
    with pytest.raises(CheckpointError, match="setting colour"):
        read_run(tmp_path)


def test_the_base_of_an_adapter_is_found_in_its_own_file(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    assert find_base(tmp_path) == LoadConfig(model=str(tmp_path))
    config.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match="name the base model with --model"):
        find_base(tmp_path)
    config.write_text("{}")
    with pytest.raises(CheckpointError, match="it names no base model"):
        find_base(tmp_path)


def test_an_adapter_without_weights_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it cannot be loaded"):
        load_adapter(None, tmp_path)  # type: ignore[arg-type]
