from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vlcore.checkpoint import Run
from vlcore.config import SftConfig
from vlcore.errors import ExtraMissing, UsageError
from vlcore.train import divide
from vlcore.train.divide import gather_weights
from vlcore.train.settings import compare_resumed


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
    read = divide.read_deepspeed(SftConfig(deepspeed=preset))
    assert read is not None and read["zero_optimization"]["stage"] == stage
    assert ("offload_optimizer" in read["zero_optimization"]) is offload
    assert ("offload_param" in read["zero_optimization"]) is (offload and stage == 3)


@pytest.mark.usefixtures("with_deepspeed")
def test_a_file_is_read_and_its_open_batch_size_left_to_follow(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"train_batch_size": "auto", "zero_optimization": {"stage": 1}}), encoding="utf8")
    assert divide.read_deepspeed(SftConfig(deepspeed=str(path))) == {"zero_optimization": {"stage": 1}}
    path.write_text("{", encoding="utf8")
    with pytest.raises(UsageError, match="it is not JSON"):
        divide.read_deepspeed(SftConfig(deepspeed=str(path)))


@pytest.mark.usefixtures("with_deepspeed")
def test_an_unknown_preset_brings_the_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean default-zero"):
        divide.read_deepspeed(SftConfig(deepspeed="default-zero4"))


def test_deepspeed_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"vlcore\[deepspeed\]"):
        divide.read_deepspeed(SftConfig(deepspeed="default-zero2"))
    assert divide.read_deepspeed(SftConfig()) is None


def test_fsdp_is_what_trainer_takes_or_nothing() -> None:
    assert divide.read_fsdp(SftConfig()) is None
    for name, offloads in (("full_shard", False), ("full_shard-offload", True)):
        read = divide.read_fsdp(SftConfig(fsdp=name))
        assert read is not None and read["version"] == 2 and read["reshard_after_forward"]
        assert read.get("cpu_offload", False) is offloads


@pytest.mark.usefixtures("with_deepspeed")
@pytest.mark.parametrize(
    ("given", "told"),
    [({"fsdp": "ful_shard"}, "did you mean full_shard"),
     ({"deepspeed": "default-zero2", "fsdp": "full_shard"}, "both divide the model"),
     ({"deepspeed": "default-zero3", "quantization_bit": 4}, "quantized weights cannot be divided")],
)
def test_divisions_that_cannot_be_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        divide.check_division(SftConfig(**given))


@pytest.mark.usefixtures("with_deepspeed")
def test_optimizer_states_of_quantized_models_can_be_divided() -> None:
    divide.check_division(SftConfig(deepspeed="default-zero2", quantization_bit=4))


def test_blocks_of_all_towers_are_gathered_at_once() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(2, 2)

    class Layer(Block):
        pass

    towers: Any = torch.nn.ModuleDict(
        {"vision": torch.nn.ModuleList([Block(), Block()]), "language": torch.nn.ModuleList([Layer()]),
         "scales": torch.nn.ModuleList([torch.nn.Linear(2, 2)])})
    arguments: Any = SimpleNamespace(fsdp=True, fsdp_plugin_args={})
    divide.prepare_fsdp(arguments, towers)
    assert arguments.fsdp_plugin_args == {"transformer_cls_names_to_wrap": ["Block", "Layer"]}


def test_weights_that_are_not_divided_are_whole_already() -> None:
    model: Any = torch.nn.Linear(2, 2)
    with gather_weights(model, first=True):
        assert model.weight.numel() == 4


def test_a_run_goes_on_as_it_was_divided(tmp_path: Path) -> None:
    run = Run(tmp_path, SftConfig(deepspeed="default-zero2"), {}, {})
    with pytest.raises(UsageError, match="another deepspeed: the checkpoint was trained with deepspeed default-zero2"):
        compare_resumed(SftConfig(), run)
