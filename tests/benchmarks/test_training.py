from __future__ import annotations

import argparse
import runpy
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "training.py"
GIVEN = argparse.Namespace(size="tiny", batch_size=2, steps=4, attn="sdpa", workers=0)


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARK))


@pytest.fixture(scope="module")
def folder(names: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    names["write_model"](folder / "model", "tiny")
    names["write_rows"](folder, 8, 10, (56, 56))
    return folder


@pytest.mark.parametrize("way", ["vlcore", "plain"])
def test_a_training_ends_after_its_steps_and_leaves_nothing(names: dict[str, Any], folder: Path, way: str) -> None:
    seconds, peak = names["measure"](way, names["make_config"](folder, "lora", GIVEN))
    assert seconds > 0 and peak >= 0
    assert not list(folder.glob("**/checkpoint-*"))


def test_a_report_tells_the_figures_of_both_ways(
    names: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {"vlcore": [(0.5, 3 * 10**9), (0.5, 2 * 10**9)], "plain": [(1.0, 10**9), (1.0, 10**9)]}
    config = names["make_config"](folder, "full", GIVEN)
    names["report"]("full", config, runs, 0.001)
    first, own, plain, ratio, plan = capsys.readouterr().out.splitlines()
    length = int(first.split()[3])
    flops = names["count_flops"](config, length)
    assert own.split(",")[0].split() == ["vlcore", str(4 * length), "tokens", "a", "second"]
    assert f"MFU {flops * 2 / 0.5 / 1e9:.1%}" in own and own.endswith("3.00 GB") and plain.endswith("1.00 GB")
    assert ratio.split()[3] == "2.00"
    assert "of what was measured" in plan


def test_frozen_weights_take_two_thirds_of_the_work_of_trained_ones(names: dict[str, Any], folder: Path) -> None:
    full, lora = (names["count_flops"](names["make_config"](folder, method, GIVEN), 100) for method in ("full", "lora"))
    assert 1.4 < full / lora < 3


def test_the_peak_of_a_gpu_is_found_by_its_name(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert names["find_peak"](0.0) == 312.0
    assert names["find_peak"](7.0) == 7.0
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA Something")
    assert names["find_peak"](0.0) == 0.0
