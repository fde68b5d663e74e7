"""Packed rows train what the same rows train alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import vlcore
from PIL import Image as PilImage
from safetensors.torch import load_file
from transformers import modeling_flash_attention_utils as flash_utils
from vlcore.attention import NAME as ROWS
from vlcore.attention import use_rows
from vlcore.batch import Example, Pack, collate, collate_packs
from vlcore.config import LoadConfig, SftConfig
from vlcore.errors import UsageError
from vlcore.media import normalise
from vlcore.messages import Video, make_message, user
from vlcore.model import Frontend, build_frontend
from vlcore.resolve import open_checkpoint
from vlcore.train.blank import collate_filled, make_blank
from vlcore.train.packs import PROBE, check_apart, needs_flat

from .conftest import measure

MakeConfig = Callable[..., SftConfig]
DATA = Path(__file__).parents[1] / "parity" / "data"
#: Recorded checkpoints of every family and every kind of language model; two have a short trained length.
RECORDED = sorted(str(path.parent.relative_to(DATA)) for path in DATA.glob("*/*/checkpoint"))
#: Kinds of model that are not recorded, written anew.
WRITTEN = [
    "deepseek-1.3b", "internvl-qwen2", "internvl-qwen2-dynamic", "internvl-internlm3", "internvl-qwen3_moe",
    "qwen-vl-stretched",
]
#: Families whose rows may have several pictures, and videos.
SEVERAL = ("internvl", "qwen_vl", "deepseek_vl")


@pytest.fixture(scope="session")
def find_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a recorded checkpoint, or of one that is written."""
    from vlcore_deepseek_vl import tiny as deepseek
    from vlcore_internvl import tiny as internvl
    from vlcore_qwen_vl import tiny as qwen

    @cache
    def find(name: str) -> Path:
        if name in RECORDED:
            return DATA / name / "checkpoint"
        folder: Path = tmp_path_factory.mktemp(name)
        if name.startswith("deepseek"):
            deepseek.write_tiny(folder)
        elif name.startswith("qwen"):
            qwen.write_tiny(folder, seq_length=48)
        else:
            internvl.write_tiny(folder, name.split("-")[1], width=64)
        if name.endswith("dynamic"):
            config = json.loads((folder / "config.json").read_text())
            config["llm_config"] |= {"max_position_embeddings": 100, "rope_scaling": {"type": "dynamic", "factor": 2.0}}
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return find


def load(folder: Path, attn: str = "sdpa") -> tuple[Frontend, Any]:
    checkpoint = open_checkpoint(folder)
    kind: Any = "sdpa" if attn == "rows" else attn
    model = checkpoint.call("load_model", config=LoadConfig(device_map="cpu", dtype="fp32", attn=kind)).train()
    if attn == "rows":
        use_rows(model)
        assert model.config.get_text_config()._attn_implementation == ROWS
    model.config.get_text_config().use_cache = False
    return build_frontend(checkpoint), model


def paint(*shades: int) -> list[PilImage.Image]:
    return [PilImage.effect_noise((40 + shade, 50), 60).convert("RGB") for shade in shades]


def make_examples(frontend: Frontend) -> list[Example]:
    """Rows of text, of one picture and of several, of a video, and one beyond the trained length of two releases."""
    several = frontend.checkpoint.family.name in SEVERAL
    rows: list[tuple[Any, str]] = [
        (user("What is it?"), "A cat, I think."),
        (user("What is it?", paint(0)), "It is red."),
        (user("Tell me more of it. " * 25), "No. " * 40),
        (user("And these?", paint(8, 16) if several else paint(8)), "Two boats, one behind the other."),
    ]
    if frontend.checkpoint.family.name == "internvl":
        film = Video(frames=tuple(vlcore.messages.Image(frame) for frame in paint(1, 2)))
        rows.append((user("What happens?", videos=[film]), "Nothing."))
    return [frontend.encode([ask, make_message("assistant", answer)], train=True) for ask, answer in rows]


def assert_same(found: Any, expected: Any) -> None:
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).abs().max() < 1e-5 * max(1, gradient.abs().max()), name


@pytest.mark.parametrize("attn", ["rows", "sdpa", "eager"])
@pytest.mark.parametrize("name", [*RECORDED, *WRITTEN])
def test_packed_rows_have_the_loss_and_gradients_of_rows_alone(
    name: str, attn: str, find_folder: Callable[[str], Path]
) -> None:
    frontend, model = load(find_folder(name), attn)
    model.train(name != "qwen-vl-stretched")  # it stretches positions in evaluation alone
    rows, pad = make_examples(frontend), frontend.tokenizer.pad_id
    alone = measure(frontend, model, [collate([row], pad) for row in rows])
    packs = [Pack(tuple(rows[:3])), Pack(tuple(rows[3:]))]
    assert_same(measure(frontend, model, [collate_packs(packs, pad)]), alone)
    assert_same(measure(frontend, model, [collate_packs(packs, pad, flat=True)]), alone)


def attend_apart(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, cu_seqlens_q: torch.Tensor, softmax_scale: float,
    **_: Any,
) -> torch.Tensor:
    """What flash attention's kernel for rows of different lengths computes, (tokens, heads, width)."""
    borders = cu_seqlens_q.tolist()
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            *(x[first:last].transpose(0, 1)[None] for x in (query, key, value)),
            is_causal=True, scale=softmax_scale, enable_gqa=True,
        )[0].transpose(0, 1)
        for first, last in pairwise(borders)
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("name", [name for name in RECORDED if "internvl" not in name or name[-7:-5] in ("4b", "8b")])
def test_flash_attention_is_given_the_borders_of_packed_rows(
    name: str, find_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package needs a GPU: its kernel is played by plain attention, what transformers hands to it is real.
    frontend, model = load(find_folder(name))
    rows, pad = make_examples(frontend), frontend.tokenizer.pad_id
    alone = measure(frontend, model, [collate([row], pad) for row in rows])
    kernels = (None, attend_apart, None, None, None)
    settings = (lambda **given: {"softmax_scale": given["softmax_scale"]}, None)
    monkeypatch.setattr(flash_utils, "lazy_import_flash_attention", lambda _: (kernels, settings))
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert needs_flat(model)
    packs = [Pack(tuple(rows[:3])), Pack(tuple(rows[3:]))]
    assert_same(measure(frontend, model, [collate_packs(packs, pad, flat=needs_flat(model))]), alone)


def test_a_blank_picture_changes_no_loss_and_no_gradient(find_folder: Callable[[str], Path]) -> None:
    frontend, model = load(find_folder("internvl-qwen2"))
    pad, rows = frontend.tokenizer.pad_id, [row for row in make_examples(frontend) if not row.pixels]
    packs = [Pack(tuple(rows)), Pack((rows[0],))]
    loss, gradients = measure(frontend, model, [collate_packs(packs, pad)])
    for flat in (False, True):
        filled = measure(frontend, model, [collate_filled(packs, pad, make_blank(frontend), flat)])
        assert all(not gradient.any() for key, gradient in filled[1].items() if key not in gradients)
        assert len(filled[1]) > len(gradients)
        assert_same((filled[0], {key: filled[1][key] for key in gradients}), (loss, gradients))


def test_a_model_that_lets_rows_see_each_other_is_refused(find_folder: Callable[[str], Path]) -> None:
    frontend, model = load(find_folder("internvl-qwen2"))
    check = partial(check_apart, lambda batch: model(**batch).logits, frontend.tokenizer.encode(PROBE), flat=False)
    with torch.no_grad():
        check()
        model.config.get_text_config().use_cache = True  # with a cache, transformers looks for no borders
        with pytest.raises(UsageError, match=r"packing true: the model lets rows see .* use --group_by_length true"):
            check()


@pytest.mark.parametrize("name", [*RECORDED, *WRITTEN])
def test_every_model_passes_the_check_before_the_first_step_in_half_precision(
    name: str, find_folder: Callable[[str], Path]
) -> None:
    frontend, model = load(find_folder(name))
    model.eval().to(torch.bfloat16)

    def score(batch: Any) -> torch.Tensor:
        placed = normalise(frontend.media, batch)
        half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in placed.items()}
        scores: torch.Tensor = model(**half).logits
        return scores

    with torch.no_grad():
        check_apart(score, frontend.tokenizer.encode(PROBE), flat=False, frontend=frontend)


def read_entries(folder: Path, name: str = "loss") -> list[float]:
    entries = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [entry[name] for entry in entries if name in entry]


def read_state(checkpoint: Path) -> tuple[bytes, Any]:
    name = "model.safetensors" if (checkpoint / "model.safetensors").exists() else "adapter_model.safetensors"
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    return (checkpoint / name).read_bytes(), {key: value["exp_avg"] for key, value in state.items()}


@pytest.mark.parametrize("way", ["packing", "group_by_length"])
@pytest.mark.parametrize("sft_type", ["lora", "full"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(make_config: MakeConfig, sft_type: str, way: str) -> None:
    # Two packs or four rows an update: step 2 is within an epoch, 7 in another one.
    settings: dict[str, Any] = {
        way: True, "sft_type": sft_type, "max_steps": 7, "save_steps": 1, "save_total_limit": 9, "max_length": 150,
        "batch_size": 1 if way == "packing" else 2, "dtype": "fp32",
    }
    settings |= {"lora_dropout_p": 0.1} if sft_type == "lora" else {}
    whole = vlcore.sft(make_config(**settings))
    resumed = vlcore.sft(make_config(**settings, resume_from_checkpoint=str(whole.folder / "checkpoint-2")))
    weights, states = zip(*(read_state(run.checkpoint) for run in (whole, resumed)), strict=True)
    assert weights[0] == weights[1]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert read_entries(resumed.folder) == read_entries(whole.folder)
    assert resumed.eval_loss == whole.eval_loss


def test_packs_a_step_and_accumulation_can_be_exchanged(make_config: MakeConfig) -> None:
    shared = {"packing": True, "max_length": 150}
    ways: list[dict[str, Any]] = [
        {"batch_size": 1, "gradient_accumulation_steps": 2},
        {"batch_size": 2, "gradient_accumulation_steps": 1},
        {"batch_size": 2, "gradient_accumulation_steps": 1, "gradient_checkpointing": False},
    ]
    runs = [vlcore.sft(make_config(**shared, **way)) for way in ways]
    losses = [torch.tensor(read_entries(run.folder)) for run in runs]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-5, atol=1e-5)


def test_a_packed_epoch_trains_the_tokens_of_all_rows(make_config: MakeConfig) -> None:
    shared = {"max_steps": -1, "gradient_accumulation_steps": 16, "dataset_test_ratio": 0.0, "max_length": 150}
    runs = [vlcore.sft(make_config(**shared, packing=on, batch_size=1 + on)) for on in (False, True)]
    seen = [read_entries(run.folder, "num_input_tokens_seen")[-1] for run in runs]
    assert seen[0] == seen[1] > 0
    # One update over all rows: the mean over their trained tokens.
    assert runs[1].loss == pytest.approx(runs[0].loss, abs=1e-5)
    assert "12 rows in" in (runs[1].folder / "train.log").read_text()


def test_packing_trains_in_bf16(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(packing=True, max_length=150, dtype="bf16", sft_type="full", max_steps=1))
    assert {tensor.dtype for tensor in load_file(run.checkpoint / "model.safetensors").values()} == {torch.float32}


def test_grouping_packs_has_no_effect_and_says_so(make_config: MakeConfig) -> None:
    run = vlcore.sft(make_config(packing=True, max_length=150, group_by_length=True, max_steps=1))
    assert "--group_by_length has no effect" in (run.folder / "train.log").read_text()
