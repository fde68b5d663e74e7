"""Merging tensor by tensor gives, bit for bit, what merging the whole model in memory gives, in every family."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers.core_model_loading import revert_weight_conversion
from vlcore.carry import name_safe
from vlcore.checkpoint import load_adapter
from vlcore.config import LoadConfig, LoraConfig
from vlcore.errors import CheckpointError, UsageError
from vlcore.export.merging import merge
from vlcore.lora import add_adapters, quiet_peft
from vlcore.resolve import Checkpoint, open_checkpoint
from vlcore.shards import list_files, read_tensors, write_tensors

WHOLE = LoadConfig(dtype="fp32", device_map="cpu")


def write_release(family: str, folder: Path) -> None:
    """A tiny release by a name for its kind."""
    import vlcore_deepseek_vl.tiny as deepseek
    import vlcore_internvl.tiny as internvl
    import vlcore_qwen_vl.tiny as qwen
    import vlcore_yi_vl.tiny as yi

    texts = ["What is it?"]
    writers: dict[str, Callable[[], Any]] = {
        "internvl": lambda: internvl.write_tiny(folder, "qwen2", tile=28, width=64, layers=1, texts=texts),
        "internvl-internlm2": lambda: internvl.write_tiny(folder, "internlm2", tile=28, width=64, texts=texts),
        "deepseek": lambda: deepseek.write_tiny(folder, texts),
        "deepseek-hybrid": lambda: deepseek.write_tiny(folder, texts, hybrid=True),
        "qwen": lambda: qwen.write_tiny(folder, texts=texts, layers=1),
        "yi": lambda: yi.write_tiny(folder, "6b", width=56, layers=1, texts=texts),
        "yi-34b": lambda: yi.write_tiny(folder, "34b", width=56, layers=1, texts=texts),
    }
    writers[family]()


FAMILIES = ("internvl", "internvl-internlm2", "deepseek", "deepseek-hybrid", "qwen", "yi", "yi-34b")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Tiny releases in bf16 but for their norms."""
    made: dict[str, Path] = {}

    def make(family: str) -> Checkpoint:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("release")
            write_release(family, made[family])
            for part in open_checkpoint(made[family]).weight_folders:
                for path in list_files(part.path):
                    halved = {n: t if "norm" in n else t.bfloat16() for n, t in read_tensors(path).items()}
                    write_tensors(path, halved)
        return open_checkpoint(made[family])

    return make


def write_adapter(release: Checkpoint, folder: Path, **settings: Any) -> Path:
    """An adapter whose every tensor has been moved off its first value."""
    model = release.call("load_model", config=WHOLE)
    adapted = add_adapters(release, model, LoraConfig(**settings))
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def merge_whole(release: Checkpoint, adapter: Path) -> dict[str, torch.Tensor]:
    """The merged model as PEFT makes it in float32, in the release's names."""
    merged = load_adapter(release.call("load_model", config=WHOLE), adapter).merge_and_unload(safe_merge=True)
    return revert_weight_conversion(merged, merged.state_dict())


def check_same(release: Checkpoint, merged: Path, expected: dict[str, torch.Tensor]) -> set[str]:
    """Holds every tensor of a merged folder against the expected ones; returns the names that differ from the base."""
    changed = set()
    for part in release.weight_folders:
        for path in list_files(part.path):
            before, after = read_tensors(path), load_file(merged / part.inside / name_safe(path.name))
            assert before.keys() == after.keys()
            for name, tensor in before.items():
                wanted = expected[name].to(tensor.dtype) if part.reads(name) else tensor
                assert after[name].dtype == tensor.dtype
                assert torch.equal(after[name].view(torch.uint8), wanted.view(torch.uint8)), name
                changed |= {name} if not torch.equal(tensor, after[name]) else set()
    return changed


@pytest.mark.parametrize("targets", ["DEFAULT", "ALL"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_is_merged_as_by_peft(
    family: str, targets: str, releases: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    release = releases(family)
    adapter = write_adapter(release, tmp_path / "adapter", lora_target_modules=(targets,))
    changed = check_same(release, merge(adapter), merge_whole(release, adapter))
    assert changed
    # The merged folder is a release as the base is.
    open_checkpoint(tmp_path / "adapter-merged").call("load_model", config=WHOLE)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "lora_target_modules": ("ALL",)},
        {"use_rslora": True},
        {"modules_to_save": ("PROJECTOR", "EMBEDDINGS", "HEAD")},
        {"modules_to_save": ("VISION",), "lora_target_modules": ("ALL",)},
    ],
    ids=["dora", "rslora", "embeddings", "vision"],
)
@pytest.mark.parametrize("family", ["internvl-internlm2", "yi"])
def test_every_kind_of_adapter_is_merged_as_by_peft(
    family: str, settings: dict[str, Any], releases: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    release = releases(family)
    adapter = write_adapter(release, tmp_path / "adapter", **settings)
    assert check_same(release, merge(adapter), merge_whole(release, adapter))


@pytest.fixture(params=[True, False], ids=["stored", "implied"])
def tied(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    """A release whose head is its embeddings, with and without a copy of its own in the files."""
    from vlcore_internvl import tiny

    folder = tmp_path / "tied"
    folder.mkdir()
    tiny.write_tiny(folder, "qwen3", tile=28, width=64, layers=1, texts=["What is it?"])
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    config["llm_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config), encoding="utf8")
    tensors = read_tensors(folder / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"].clone()
    if not request.param:
        del tensors["language_model.lm_head.weight"]
    write_tensors(folder / "model.safetensors", tensors)
    return open_checkpoint(folder)


@pytest.mark.parametrize("modules", [(), ("EMBEDDINGS",)])
def test_a_tied_head_stays_what_the_embeddings_are(tied: Checkpoint, modules: tuple[str, ...], tmp_path: Path) -> None:
    adapter = write_adapter(tied, tmp_path / "adapter", modules_to_save=modules)
    assert check_same(tied, merge(adapter), merge_whole(tied, adapter))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Input and output embeddings are no")
def test_a_head_trained_apart_from_embeddings_it_is_tied_to_cannot_be_merged(tied: Checkpoint, tmp_path: Path) -> None:
    model = tied.call("load_model", config=WHOLE)
    settings = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with quiet_peft():
        adapted = peft.get_peft_model(model, settings)
    adapted.peft_config["default"].base_model_name_or_path = str(tied.folder)
    adapted.base_model.model.lm_head.modules_to_save["default"].weight.data += 1
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    if "language_model.lm_head.weight" in read_tensors(tied.folder / "model.safetensors"):
        check_same(tied, merge(tmp_path / "adapter"), merge_whole(tied, tmp_path / "adapter"))
    else:
        with pytest.raises(CheckpointError, match="lm_head.weight: the release holds it as"):
            merge(tmp_path / "adapter")


def test_what_is_not_finite_is_never_written(releases: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    adapter = write_adapter(releases("internvl"), tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values())).fill_(float("nan"))
    write_tensors(adapter / "adapter_model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="with the adapter it is not finite"):
        merge(adapter)
    assert not list(tmp_path.glob("*merged*"))


def test_a_quantized_base_is_refused_before_it_is_read(releases: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    release = releases("internvl")
    adapter = write_adapter(release, tmp_path / "adapter")
    base = tmp_path / "base"
    base.mkdir()
    text = (release.folder / "config.json").read_text(encoding="utf8")
    (base / "config.json").write_text(text.replace("{", '{"quantization_config": {"load_in_8bit": true},', 1), "utf8")
    with pytest.raises(UsageError, match="name the same model in full precision with --model"):
        merge(adapter, model=str(base))


@pytest.mark.parametrize("fault", ["missing", "left over", "of another shape"])
def test_a_base_that_does_not_fit_its_configuration_is_refused(
    fault: str, releases: Callable[[str], Checkpoint], tmp_path: Path
) -> None:
    release = releases("internvl-internlm2")
    adapter = write_adapter(release, tmp_path / "adapter")
    base = Path(shutil.copytree(release.folder, tmp_path / "base"))
    tensors = read_tensors(base / "model.safetensors")
    name = "language_model.model.layers.0.attention.wqkv.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "left over":
        tensors["language_model.model.more"] = torch.ones(2)
    else:
        tensors["mlp1.0.weight"] = torch.ones(3)
    write_tensors(base / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=fault):
        merge(adapter, model=str(base))
