from __future__ import annotations

import argparse
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode
from vlcore.model import build_frontend
from vlcore.resolve import resolve_model
from vlcore.train.data import load_data
from vlcore.train.learner import load_learner

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


@pytest.mark.parametrize(("method", "margin"), [("full", 0.05), ("lora", 0.15)])
def test_flops_are_those_that_pytorch_counts_but_for_adapters_and_norms(
    names: dict[str, Any], folder: Path, method: str, margin: float
) -> None:
    given = argparse.Namespace(**{**vars(GIVEN), "attn": "eager"})
    config = replace(names["make_config"](folder, method, given), gradient_checkpointing=False)
    checkpoint = resolve_model(config)
    frontend = build_frontend(checkpoint)
    row = names["PlainRows"](frontend, load_data(frontend, config).train)[0]
    model = load_learner(checkpoint, config, None).model
    with FlopCounterMode(display=False) as counter:
        model(**names["pad"]([row])).loss.backward()
    counted = names["count_flops"](config, len(row["input_ids"]))
    assert counted == pytest.approx(counter.get_total_flops(), rel=margin)


def test_the_peak_of_a_gpu_is_found_by_its_name(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    assert names["find_peak"](0.0) == 312.0
    assert names["find_peak"](7.0) == 7.0
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA Something")
    assert names["find_peak"](0.0) == 0.0
