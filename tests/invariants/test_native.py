"""Models that transformers has natively, without any plugin: trained, merged and loaded again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from vlcore.attention import NAME as ROWS
from vlcore.attention import use_rows
from vlcore.batch import Pack, collate, collate_packs
from vlcore.config import GenerateConfig, LoadConfig, SftConfig
from vlcore.errors import UsageError
from vlcore.export.merging import merge
from vlcore.media import normalise
from vlcore.messages import make_message, user
from vlcore.model import Frontend, VLModel, build_frontend
from vlcore.native.kinds import KINDS
from vlcore.native.tiny import write_tiny
from vlcore.resolve import open_checkpoint
from vlcore.train.blank import collate_filled, make_blank
from vlcore.train.learner import leave_cache
from vlcore.train.packs import PROBE, check_apart, refuse_overlay

from .conftest import measure

#: Model types whose attention looks both ways within pictures or prompts.
OVERLAID = {"paligemma", "gemma3"}
#: Model types some of whose layers know no borders between rows.
UNBOUND = {"qwen3_5", "qwen3_5_moe"}
#: Types that others are like in all that training and merging see of them.
ALIKE = {"vipllava", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "deepseek_vl_hybrid", "aya_vision"}


@dataclass(frozen=True)
class Trained:
    """A tiny checkpoint, what a LoRA training of it left, and that merged."""

    release: Path
    adapter: Path
    merged: Path


@pytest.fixture(scope="module", params=[name for name in KINDS if name not in ALIKE])
def trained(
    request: pytest.FixtureRequest, rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    release = write_release(request.param, tmp_path_factory.mktemp("native"))
    adapter = train(release, rows, tmp_path_factory.mktemp("output"), lora_target_modules=("ALL",))
    return Trained(release, adapter, merge(adapter))


@pytest.fixture(scope="module", params=KINDS)
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with the tensor names of published ones."""
    return write_release(request.param, tmp_path_factory.mktemp("native"))


def write_release(model_type: str, place: Path) -> Path:
    folder = place / model_type
    folder.mkdir()
    write_tiny(model_type, folder, ["Which colour? It is red. It is green. It is blue."])
    return folder


def train(release: Path, rows: Path, output: Path, **settings: Any) -> Path:
    """The checkpoint that a short training left."""
    usual: dict[str, Any] = {
        "max_steps": 2, "save_steps": 2, "logging_steps": 1, "gradient_accumulation_steps": 1, "batch_size": 4,
        "learning_rate": 1e-2, "lora_dropout_p": 0.0, "dataset_test_ratio": 0.0, "report_to": ("none",),
    }
    config = SftConfig(model=str(release), dataset=(str(rows),), output_dir=str(output), **(usual | settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlcore.train.record.draw_curves", lambda *_: None)  # takes as long as all else
        return vlcore.sft(config).checkpoint


def make_question(rows: Path) -> Any:
    return user("Which colour?", [next(rows.parent.glob("*.png"))])


def test_a_merged_model_answers_as_the_adapter_does(trained: Trained, rows: Path) -> None:
    models = [vlcore.load_model(folder) for folder in (trained.adapter, trained.merged, trained.release)]
    question = make_question(rows)
    adapted, whole, base = (model.compute_logits(model.encode([question]))[0] for model in models)
    torch.testing.assert_close(whole, adapted, atol=1e-4, rtol=1e-4)
    assert (adapted - base).abs().max() > 1e-2
    settings = GenerateConfig(max_new_tokens=6, temperature=0)
    told = [[reply.text for reply in model.answer([[question], [user("Hm?")]], settings)] for model in models[:2]]
    assert told[0] == told[1]


def test_a_merged_folder_keeps_names_and_files_and_loads_without_vlcore(trained: Trained, rows: Path) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (trained.release, trained.merged))
    assert {n: (t.dtype, t.shape) for n, t in before.items()} == {n: (t.dtype, t.shape) for n, t in after.items()}
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for path in trained.release.iterdir():
        assert path.name == "model.safetensors" or path.read_bytes() == (trained.merged / path.name).read_bytes()
    model = vlcore.load_model(trained.merged)
    plain, report = AutoModelForImageTextToText.from_pretrained(trained.merged, output_loading_info=True)
    assert not any(report.values())
    example = model.encode([make_question(rows)])
    expected = model.compute_logits(example)[0]
    torch.testing.assert_close(VLModel(model.frontend, plain.eval()).compute_logits(example)[0], expected)


def test_activations_are_recomputed_and_every_part_is_named_in_the_log(trained: Trained) -> None:
    log = (trained.adapter.parent / "train.log").read_text()
    assert "has no effect" not in log
    assert all(f"{part} " in log for part in ("vision", "projector", "language"))


@pytest.fixture
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A tiny checkpoint of the type asked for."""
    return write_release(request.param, tmp_path)


@pytest.mark.parametrize("old", ["llava", "qwen2_5_vl"], indirect=True)
def test_names_of_today_in_half_precision_and_several_files_are_kept_too(old: Path, rows: Path, tmp_path: Path) -> None:
    today = tmp_path / "today"
    AutoModelForImageTextToText.from_pretrained(old, dtype=torch.bfloat16).save_pretrained(
        today, max_shard_size="200kB", save_original_format=False)
    for path in old.iterdir():
        if not (today / path.name).exists() and path.name != "model.safetensors":
            shutil.copyfile(path, today / path.name)
    merged = merge(train(today, rows, tmp_path / "output"))
    files = sorted(path.name for path in today.glob("*.safetensors"))
    assert len(files) > 1
    named = [name for file in files for name in load_file(today / file)]
    assert not any(name.startswith(("language_model.", "visual.")) for name in named)
    for file in files:
        before, after = load_file(today / file), load_file(merged / file)
        assert {n: (t.dtype, t.shape) for n, t in before.items()} == {n: (t.dtype, t.shape) for n, t in after.items()}
    _, report = AutoModelForImageTextToText.from_pretrained(merged, output_loading_info=True)
    assert not any(report.values())


@pytest.mark.parametrize(("old", "frozen"), [
    ("llava_next", ("freeze_llm", "freeze_vit")), ("qwen3_vl", ("freeze_llm", "freeze_aligner")),
], indirect=["old"])
def test_a_full_training_changes_what_is_not_frozen_and_keeps_the_names(
    old: Path, frozen: tuple[str, ...], rows: Path, tmp_path: Path
) -> None:
    left = train(old, rows, tmp_path / "output", sft_type="full", **dict.fromkeys(frozen, True))
    before, after = (load_file(folder / "model.safetensors") for folder in (old, left))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    learning = ("model.visual.",) if "freeze_vit" not in frozen else ("multi_modal_projector.", "image_newline")
    assert changed
    assert all(name.startswith(learning) and "merger" not in name for name in changed)
    assert vlcore.load_model(left).checkpoint.parts.projector


@pytest.mark.parametrize("old", ["qwen3_vl"], indirect=True)
def test_parts_within_a_tower_are_trained_whole_beside_adapters_and_merged(
    old: Path, rows: Path, tmp_path: Path
) -> None:
    adapter = train(old, rows, tmp_path / "output", modules_to_save=("VISION", "PROJECTOR"))
    merged = merge(adapter)
    before, after = (load_file(folder / "model.safetensors") for folder in (old, merged))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"model.visual.blocks.1.attn.qkv.weight", "model.visual.deepstack_merger_list.0.norm.weight"} <= changed
    models = [vlcore.load_model(folder) for folder in (adapter, merged)]
    adapted, whole = (model.compute_logits(model.encode([make_question(rows)]))[0] for model in models)
    torch.testing.assert_close(whole, adapted, atol=1e-4, rtol=1e-4)


def load(folder: Path, attn: str = "sdpa") -> tuple[Frontend, Any]:
    checkpoint = open_checkpoint(folder)
    kind: Any = "sdpa" if attn == "rows" else attn
    model = checkpoint.call("load_model", config=LoadConfig(device_map="cpu", dtype="fp32", attn=kind))
    leave_cache(model)
    if attn == "rows":
        use_rows(model)
        assert model.config.get_text_config()._attn_implementation == ROWS
    return build_frontend(checkpoint), model


def make_examples(frontend: Frontend, rows: Path) -> list[Any]:
    """Rows without, with one and with two pictures of different sizes."""
    pictures = sorted(rows.parent.glob("*.png"), key=lambda path: int(path.stem))
    given = [("Which colour?", pictures[1:2]), ("Hm?", []), ("Which?", pictures[-1:] + pictures[:1]), ("And?", [])]
    return [
        frontend.encode([user(text, images), make_message("assistant", f"It is {text} red.")], train=True)
        for text, images in given
    ]


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-4)
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).abs().max() < 1e-4 * max(1, gradient.abs().max()), name


def test_rows_in_a_batch_and_in_packs_train_what_they_train_alone(release: Path, rows: Path) -> None:
    frontend, model = load(release, "rows")
    model.train()
    examples, pad = make_examples(frontend, rows), frontend.tokenizer.pad_id
    alone = measure(frontend, model, [collate([example], pad) for example in examples])
    assert_same(measure(frontend, model, [collate(examples, pad)]), alone)
    if release.name in OVERLAID:
        with pytest.raises(UsageError, match="looks both ways within pictures or prompts"):
            refuse_overlay(frontend)
        return
    refuse_overlay(frontend)
    if release.name in UNBOUND:
        return
    packs = [Pack(tuple(examples[:3])), Pack(tuple(examples[3:]))]
    assert_same(measure(frontend, model, [collate_packs(packs, pad)]), alone)
    assert_same(measure(frontend, model, [collate_packs(packs, pad, flat=True)]), alone)
    texts = [example for example in examples if not example.pixels]
    plain = measure(frontend, model, [collate(texts, pad)])
    assert_same(measure(frontend, model, [collate_filled(texts, pad, make_blank(frontend))]), plain)
    assert_same(measure(frontend, model, [collate_filled([Pack(tuple(texts))], pad, make_blank(frontend))]), plain)


def check_packing(release: Path, attn: str) -> None:
    frontend, model = load(release, attn)
    model.eval()
    with torch.no_grad():
        check_apart(lambda batch: model(**normalise(frontend.media, batch)).logits,
                    frontend.tokenizer.encode(PROBE), flat=False, frontend=frontend)


def test_the_check_before_the_first_step_tells_who_can_be_packed(release: Path) -> None:
    if release.name in OVERLAID | UNBOUND:
        with pytest.raises(UsageError, match="the model lets rows see"):
            check_packing(release, "rows")
    else:
        check_packing(release, "rows")


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("old", ["qwen2_vl", "idefics3"], indirect=True)
def test_rows_are_kept_apart_by_masks_too(old: Path, attn: str) -> None:
    check_packing(old, attn)
