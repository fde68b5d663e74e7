from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from vlcore.cli import cli
from vlcore.errors import UsageError
from vlcore.parity import find_cases, measure, run_cases, widen_images

DATA = Path(__file__).parents[1] / "parity" / "data"
MODEL = DATA / "internvl" / "internvl3_5-1b-tiny"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """One case of one model, free to be changed."""
    shutil.copytree(MODEL / "checkpoint", tmp_path / "m" / "checkpoint")
    (tmp_path / "m" / "cases").mkdir()
    shutil.copytree(DATA / "images", tmp_path / "images")
    for path in (MODEL / "cases").glob("train.*"):
        shutil.copy(path, tmp_path / "m" / "cases")
    return tmp_path


def change(copy: Path, **values: object) -> None:
    path = copy / "m" / "cases" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf8")) | values), "utf8")


def test_a_sound_case_passes_and_the_last_line_counts(copy: Path) -> None:
    result = CliRunner().invoke(cli, ["parity", str(copy)], standalone_mode=False)
    assert result.exception is None, repr(result.exception)
    assert result.stdout.splitlines()[-1] == "1 passed, 0 failed"
    assert result.return_value in (0, None)


@pytest.mark.parametrize(
    ("name", "value"), [("labels", [1, 2, 3]), ("input_ids", [1]), ("loss", 3.0), ("prompt", "another")]
)
def test_a_value_that_differs_fails_its_case_and_is_named(copy: Path, name: str, value: object) -> None:
    change(copy, **{name: value})
    (outcome,) = run_cases(find_cases([copy]))
    assert not outcome.passed
    assert [fault.split()[0] for fault in outcome.faults] == [name]


def test_a_failed_case_gives_exit_code_1(copy: Path) -> None:
    change(copy, loss=3.0)
    result = CliRunner().invoke(cli, ["parity", str(copy)], standalone_mode=False)
    assert result.stdout.splitlines()[-1] == "0 passed, 1 failed"
    assert result.return_value == 1


def test_a_tensor_of_another_shape_fails(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "m" / "cases" / "train.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "logits_norm": tensors["logits_norm"][:-1].clone()}, path)
    (outcome,) = run_cases(find_cases([copy]))
    assert "logits_norm has shape" in outcome.faults[0]


def test_a_value_that_is_not_a_number_fails() -> None:
    assert not measure("loss", 1.0, float("nan")) <= 1


def test_a_recorded_tensor_that_is_not_computed_fails(copy: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    path = copy / "m" / "cases" / "train.safetensors"
    save_file({**load_file(path), "image_grid_thw": torch.ones(1, 3)}, path)
    (outcome,) = run_cases(find_cases([copy]))
    assert outcome.faults == ("image_grid_thw is recorded, and vlcore computes none",)


def test_tensors_may_be_grouped_otherwise_but_not_ordered_otherwise() -> None:
    import torch

    rows = torch.arange(12.0).reshape(2, 3, 2)
    assert measure("image_features", rows, rows.reshape(1, 6, 2)) == 0
    assert measure("image_features", rows, rows.transpose(0, 1)) > 1
    assert measure("image_features", rows, rows.reshape(2, 2, 3)) == float("inf")


def test_tensors_without_a_tolerance_must_be_equal() -> None:
    import torch

    grid = torch.tensor([[1, 4, 6]])
    assert measure("image_grid_thw", grid, grid.clone()) == 0
    assert measure("image_grid_thw", grid, torch.tensor([[1, 6, 4]])) == float("inf")
    assert measure("image_grid_thw", grid, torch.tensor([[1, 4]])) == float("inf")


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cases"):
        find_cases([tmp_path])


def test_one_recorded_id_a_picture_stands_for_all_of_its_positions() -> None:
    case = {"input_ids": [5, -200, 6], "labels": [-100, -100, 6], "image_token_id": -200, "tokens_per_image": 3}
    assert widen_images({**case, "sequence_length": 3}) == {} == widen_images({"input_ids": [5]})
    wide = {"input_ids": [5, -200, -200, -200, 6], "labels": [-100] * 4 + [6]}
    assert widen_images({**case, "sequence_length": 5}) == wide
