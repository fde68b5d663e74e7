"""Checkpoints that no plugin recognises and transformers has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, ExtraMissing, ModelNotFound
from vlcore.family import FamilyOption, ModelFamily
from vlcore.messages import user
from vlcore.model import build_frontend
from vlcore.native.media import NativeMedia
from vlcore.resolve import Checkpoint, open_checkpoint, read_json, resolve_model


def write_config(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_core_owns_what_no_plugin_recognises(native_folder: Callable[[str], Path], use_plugins: Any) -> None:
    use_plugins()
    for model_type in ("llava", "idefics3"):
        checkpoint = resolve_model(LoadConfig(model=str(native_folder(model_type))))
        assert (checkpoint.owner, checkpoint.family.name, checkpoint.record) == ("native", model_type, None)
        assert checkpoint.family.native == (model_type,)


def test_a_plugin_that_names_a_native_type_owns_it(
    native_folder: Callable[[str], Path], use_plugins: Any, make_point: Any, make_plugin: Any, pictures: list[Any]
) -> None:
    option = FamilyOption(name="max_pixels", kind=int, help="Most pixels.", default=1024)
    family = ModelFamily(name="mine", native=("qwen2_vl",), options=(option,))
    use_plugins(make_point("mine", make_plugin(family)))
    checkpoint = open_checkpoint(native_folder("qwen2_vl"))
    assert (checkpoint.owner, checkpoint.family) == ("mine", family)
    frontend, asked = build_frontend(checkpoint), [user("What?", pictures[3:])]
    assert len(frontend.encode(asked)) < len(frontend.encode(asked, max_pixels=4096))


def test_options_are_those_of_the_image_processor(native_folder: Callable[[str], Path], use_plugins: Any) -> None:
    use_plugins()
    found = {
        model_type: [option.name for option in open_checkpoint(native_folder(model_type)).family.options]
        for model_type in ("llava", "qwen2_vl", "idefics3")}
    assert found == {"llava": ["num_frames"], "qwen2_vl": ["num_frames", "min_pixels", "max_pixels"],
                     "idefics3": ["num_frames", "do_image_splitting"]}


def test_options_are_found_where_transformers_saves_a_whole_processor_in_one_file(
    native_folder: Callable[[str], Path], use_plugins: Any, tmp_path: Path
) -> None:
    use_plugins()
    found = {}
    for model_type in ("qwen2_vl", "gemma3"):
        folder = shutil.copytree(native_folder(model_type), tmp_path / model_type)
        (folder / "preprocessor_config.json").unlink()
        pictures = open_checkpoint(native_folder(model_type)).processor.image_processor.to_dict()
        saved = {**read_json(folder / "processor_config.json"), "image_processor": pictures}
        (folder / "processor_config.json").write_text(json.dumps(saved))
        found[model_type] = [option.name for option in open_checkpoint(folder).family.options]
        assert len(build_frontend(open_checkpoint(folder)).encode([user("What?", [])]))
    assert found == {"qwen2_vl": ["num_frames", "min_pixels", "max_pixels"],
                     "gemma3": ["num_frames", "do_pan_and_scan"]}


@pytest.mark.parametrize(("config", "error"), [
    ({"model_type": "florence2", "is_encoder_decoder": True},
     "models of type florence2 do not answer as others do: it has an encoder and a decoder; take another model, or"),
    ({"model_type": "mllama"}, "models of type mllama do not answer as others do: it sees pictures through layers"),
    ({"model_type": "llava", "mm_projector_type": "linear"}, "no plugin owns a config.json with model_type llava; run: "
     "pip install vlcore-yi-vl"),
    ({"model_type": "multi_modality"}, "run: pip install vlcore-deepseek-vl"),
    ({"model_type": "bert"}, "no plugin owns a config.json with model_type bert, and this transformers has no "
     "model of it for pictures and text; take a vision-language model, update transformers, or install the plugin of"),
])
def test_what_is_not_loaded_says_why(config: dict[str, Any], error: str, use_plugins: Any, tmp_path: Path) -> None:
    use_plugins()
    with pytest.raises(ModelNotFound, match=error):
        open_checkpoint(write_config(tmp_path, **config))


def test_a_processor_that_places_pictures_in_a_way_of_its_own_is_refused(
    native_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, use_plugins: Any
) -> None:
    from transformers import LlavaProcessor, ProcessorMixin

    use_plugins()
    monkeypatch.setattr(LlavaProcessor, "replace_image_token", ProcessorMixin.replace_image_token)
    with pytest.raises(CheckpointError, match="LlavaProcessor places pictures in a way that is not known here"):
        build_frontend(open_checkpoint(native_folder("llava")))


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "gemma3"])
def test_pictures_unlike_the_processors_are_refused_when_the_model_is_opened(
    model_type: str, native_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, use_plugins: Any
) -> None:
    real = NativeMedia._arrange
    use_plugins()
    monkeypatch.setattr(NativeMedia, "_arrange", lambda *arguments: real(*arguments) + 1)
    with pytest.raises(CheckpointError, match="a picture has other pixel_values here than its"):
        build_frontend(open_checkpoint(native_folder(model_type)))


def test_a_processor_that_stumbles_is_refused_when_the_model_is_opened(
    native_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, use_plugins: Any
) -> None:
    use_plugins()
    monkeypatch.setattr(NativeMedia, "_process", None)
    with pytest.raises(CheckpointError, match=r"cannot be asked of it \('NoneType' object is not callable\)"):
        build_frontend(open_checkpoint(native_folder("llava")))


def test_a_prompt_unlike_the_processors_is_refused_when_the_model_is_opened(
    native_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, use_plugins: Any
) -> None:
    use_plugins()
    monkeypatch.setattr("vlcore.native.media.split_tokens", lambda text, tokens: ())
    with pytest.raises(CheckpointError, match="prompts with 2 pictures have other ids here than its LlavaProc"):
        build_frontend(open_checkpoint(native_folder("llava")))


@pytest.mark.parametrize(("name", "text", "why"), [
    ("processor_config.json", '{"processor_class": "Nonsense"}', ""),
    ("preprocessor_config.json", "{", "it is not JSON"),
    ("tokenizer.json", "{}", "its processor cannot be loaded"),
])
def test_a_damaged_folder_is_named(
    name: str, text: str, why: str, native_folder: Callable[[str], Path], tmp_path: Path, use_plugins: Any
) -> None:
    use_plugins()
    folder = shutil.copytree(native_folder("llava"), tmp_path / "llava")
    (folder / name).write_text(text)
    if why:
        with pytest.raises(CheckpointError, match=why):
            build_frontend(open_checkpoint(folder))
    else:
        assert isinstance(open_checkpoint(folder), Checkpoint)
        assert type(open_checkpoint(folder).processor).__name__ == "LlavaProcessor"


def test_a_package_that_a_processor_needs_is_named(
    native_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, use_plugins: Any
) -> None:
    use_plugins()
    monkeypatch.setattr("vlcore.native.processor.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"it needs num2words, which is not installed; run: pip install 'vlcore\["):
        build_frontend(open_checkpoint(native_folder("smolvlm")))
    monkeypatch.setattr("vlcore.native.processor.find_class", ask_for_torchvision)
    with pytest.raises(CheckpointError, match=r"\(it requires the Torchvision library\); install what it names"):
        build_frontend(open_checkpoint(native_folder("llava")))


def ask_for_torchvision(folder: Path) -> Any:
    raise ImportError("it requires the Torchvision library")
