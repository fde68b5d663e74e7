from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from vlcore.batch import collate
from vlcore.cli import cli
from vlcore.config import SftConfig
from vlcore.footprint import count_parts, find_stack, measure_activations, measure_weights
from vlcore.lora import add_adapters
from vlcore.media import normalise
from vlcore.messages import make_message, user
from vlcore.model import build_frontend
from vlcore.plan import make_plan
from vlcore.resolve import resolve_model
from vlcore.train.sft import sft
from vlcore_internvl import tiny

GB = 10**9


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    tiny.write_tiny(folder, width=256, layers=6)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    Image.new("RGB", (300, 200), "red").save(folder / "a.png")
    lines = [{"query": "what " * (n % 20 + 1), "response": "red", "images": ["a.png"]} for n in range(20)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "rows.jsonl"


@pytest.fixture
def make_config(release: Path, rows: Path, tmp_path: Path) -> Callable[..., SftConfig]:
    usual = {"model": str(release), "dataset": (str(rows),), "output_dir": str(tmp_path), "report_to": ("none",)}
    return lambda **given: SftConfig(**{**usual, **given})


@pytest.mark.parametrize(
    "given",
    [{"gradient_accumulation_steps": 7, "num_train_epochs": 2.0}, {"batch_size": 3},
     {"packing": True, "max_length": 400, "gradient_accumulation_steps": 2}],
)
def test_steps_are_those_that_training_takes(given: dict[str, Any], make_config: Callable[..., SftConfig]) -> None:
    config = make_config(**given)
    plan = make_plan(config)
    steps = int(sft(config).checkpoint.name.removeprefix("checkpoint-"))
    # How well packs are filled is known only when they are made.
    assert plan.steps == steps or (config.packing and steps - 1 <= plan.steps <= steps)


@pytest.mark.parametrize("given", [{}, {"lora_target_modules": ("ALL",)}, {"modules_to_save": ("PROJECTOR",)},
                                   {"sft_type": "full", "freeze_vit": True}])
def test_parameters_are_those_of_the_loaded_model(given: dict[str, Any], make_config: Callable[..., SftConfig]) -> None:
    from vlcore.train.learner import load_learner

    config = make_config(**given)
    checkpoint = resolve_model(config)
    loaded = count_parts(load_learner(checkpoint, config, None).model, checkpoint.parts)
    assert make_plan(config).parts == loaded


@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_activations_are_near_to_what_autograd_keeps(sft_type: str, make_config: Callable[..., SftConfig]) -> None:
    config = make_config(sft_type=sft_type, gradient_checkpointing=False)
    checkpoint = resolve_model(config)
    frontend = build_frontend(checkpoint)
    model: Any = checkpoint.call("load_model", config=replace(config, device_map="cpu"))
    model = add_adapters(checkpoint, model, config) if sft_type == "lora" else model.requires_grad_(True)
    model.train()
    model.config.get_text_config().use_cache = False
    picture = Image.new("RGB", (400, 300))
    example = frontend.encode([user("hi " * 200, [picture]), make_message("assistant", "yes")], train=True)
    batch = normalise(frontend.media, collate([example], 0))
    labels = batch.pop("labels")
    assert labels.max() >= 0
    sizes: dict[int, int] = {}
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model(**batch)
    assert kept.logits is not None
    parts = checkpoint.parts
    language, vision = (find_stack(model, parts, part) for part in ("language", "vision"))
    patches = 5 * batch["pixel_values"].shape[0]  # tiles of 28 pixels in patches of 14, and one for the class
    counted = language.keep(len(example), 4, False) + (vision.keep(patches, 4, False) if vision.learns else 0)
    assert 0.75 < counted / sum(sizes.values()) < 1.25


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a release of the size of InternVL2-8B with a tiny tokenizer, without weights."""
    folder = tmp_path_factory.mktemp("large")
    tiny.write_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    config["llm_config"] |= {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                             "num_attention_heads": 32, "num_key_value_heads": 8}
    config["vision_config"] |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                                "num_attention_heads": 16}
    (folder / "config.json").write_text(json.dumps(config))
    for path in folder.glob("*.safetensors"):
        path.unlink()
    return folder


def test_a_model_of_8b_is_planned_without_weights(large: Path, make_config: Callable[..., SftConfig]) -> None:
    plan = make_plan(make_config(model=str(large), dtype="bf16", device_max_memory=("24GB",)))
    total, trained = (sum(getattr(part, what) for part in plan.parts) for what in ("parameters", "trained"))
    assert total > 6 * GB
    assert plan.memory.weights == 2 * (total - trained) + 6 * trained
    assert plan.fits
    small = make_plan(make_config(model=str(large), dtype="bf16", quantization_bit=4, device_max_memory=("8GB",)))
    assert small.memory.weights < 5 * GB
    assert small.fits
    full = make_plan(make_config(model=str(large), dtype="bf16", sft_type="full", device_max_memory=("80GB",)))
    assert not full.fits
    # Float32 weights with a copy, their gradients, and two moments: 18 bytes a parameter.
    held = full.memory.weights + full.memory.gradients + full.memory.optimizer
    assert held == 18 * sum(part.parameters for part in full.parts)
    assert any("lora" in text for text, _ in full.advice)


def test_recomputation_lowers_what_rows_take(large: Path, make_config: Callable[..., SftConfig]) -> None:
    config = make_config(model=str(large), dtype="bf16")
    kept = make_plan(replace(config, gradient_checkpointing=False))
    assert make_plan(config).memory.long * 3 < kept.memory.long
    assert any("--gradient_checkpointing" in text for text, _ in kept.advice)


def test_zero_divides_what_ddp_repeats(
    large: Path, make_config: Callable[..., SftConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    config = make_config(model=str(large), dtype="bf16", sft_type="full")
    ddp = make_plan(config)
    advice = dict(ddp.advice)
    totals = [advice[f"--deepspeed {name}"] for name in ("default-zero3-offload", "default-zero3", "default-zero2")]
    assert totals == sorted(totals)
    assert totals[-1] < ddp.memory.total
    assert ddp.processes == 4


def test_a_model_over_several_devices_is_shown_with_its_map(
    large: Path, make_config: Callable[..., SftConfig]
) -> None:
    plan = make_plan(make_config(model=str(large), dtype="bf16", device_max_memory=("12GB", "12GB")))
    assert plan.placement
    assert [share.device for share in plan.placement.shares] == [0, 1]


def test_quantized_layers_are_counted_in_their_bits(large: Path) -> None:
    config = SftConfig(model=str(large), device_map="meta", dtype="bf16")
    model = resolve_model(config).call("load_model", config=config).requires_grad_(False)
    whole, eight, four = (measure_weights(model, bits, 2) for bits in (0, 8, 4))
    assert 1.8 < whole / eight < 2
    assert 3.3 < whole / four < 4


def test_a_long_row_takes_more_than_a_short_one(release: Path) -> None:
    from vlcore.footprint import RowSize

    config = SftConfig(model=str(release), device_map="meta")
    checkpoint = resolve_model(config)
    model = checkpoint.call("load_model", config=config)
    sizes = [measure_activations(model, checkpoint.parts, config, RowSize(n, n, n), 2) for n in (100, 200)]
    assert sizes[1] == 2 * sizes[0]


def test_the_command_says_that_a_gpu_is_too_small(
    make_config: Callable[..., SftConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config()
    arguments = ["plan", "--model", config.model, "--dataset", *config.dataset, "--device_max_memory", "500MB"]
    assert cli.main(arguments, standalone_mode=False) == 1
    said = capsys.readouterr().out
    assert "does not fit: a GPU has 500.0 MB" in said
    cli.main([*arguments[:-1], "4GB", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["fits"] is True
