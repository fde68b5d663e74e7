from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError, ModelNotFound, UsageError
from vlcore.resolve import Checkpoint, open_checkpoint, resolve_model
from vlcore_yi_vl.family import FAMILY, find_vision, list_weights, recognise, reject

Make = Callable[..., Checkpoint]
NOWHERE = Path("nowhere")
YI: dict[str, Any] = {"model_type": "llava", "mm_projector_type": "mlp2x_gelu_Norm"}
#: Checkpoints that share the model type.
LLAVA: dict[str, Any] = {"model_type": "llava", "mm_projector_type": "mlp2x_gelu"}
NATIVE: dict[str, Any] = {"model_type": "llava", "text_config": {}, "vision_config": {}}


@pytest.mark.parametrize("name", ["yi-vl-6b-chat", "01-ai/Yi-VL-6B", "01ai/Yi-VL-6B", "Yi-VL-6B"])
def test_a_model_is_found_by_every_name_of_it(name: str) -> None:
    record = FAMILY.find_record(name)
    assert record and record.name == "yi-vl-6b-chat"


def test_layernorms_in_the_projector_make_a_checkpoint_yi_vl() -> None:
    assert recognise(YI, NOWHERE) and recognise({**YI, "mm_projector_type": "mlp3x_gelu_Norm"}, NOWHERE)
    assert not any(recognise(config, NOWHERE) for config in (LLAVA, NATIVE, {}, {**YI, "model_type": "llava_next"}))
    assert not recognise({**YI, "text_config": {}}, NOWHERE)


def test_look_alikes_are_told_what_they_are() -> None:
    assert "mlp2x_gelu" in str(reject(LLAVA, NOWHERE))
    assert "01-ai/Yi-VL-6B" in str(reject({**NATIVE, "is_yi_vl_derived_model": True}, NOWHERE))
    assert reject(NATIVE, NOWHERE) is None and reject({}, NOWHERE) is None


def test_an_original_llava_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAVA), encoding="utf8")
    with pytest.raises(ModelNotFound, match="original LLaVA"):
        open_checkpoint(tmp_path)


def change(source: Checkpoint, folder: Path, **changes: Any) -> Path:
    """A copy of a checkpoint with other keys in its configuration."""
    shutil.copytree(source.folder, folder)
    config = {**source.config, **changes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf8")
    return folder


@pytest.mark.parametrize("named", ["/gone/from/this/machine/vit", "", None])
def test_the_one_folder_below_vit_is_taken_where_the_configuration_names_none(
    named: str | None, tiny: Make, tmp_path: Path
) -> None:
    folder = change(tiny(), tmp_path / "moved", mm_vision_tower=named)
    assert find_vision(open_checkpoint(folder).config, folder).parent == folder / "vit"


def test_an_absolute_path_wins_and_is_saved_inside(tiny: Make, tmp_path: Path) -> None:
    apart = tmp_path / "tower"
    shutil.copytree(find_vision(tiny().config, tiny().folder), apart)
    folder = change(tiny(), tmp_path / "edited", mm_vision_tower=str(apart))
    main, vision = list_weights(open_checkpoint(folder).config, folder)
    assert (main.path, main.inside) == (folder, "")
    assert (vision.path, vision.inside) == (apart, "vit/tower")


def test_a_vision_folder_that_is_nowhere_is_an_error_that_says_what_to_do(tiny: Make, tmp_path: Path) -> None:
    folder = change(tiny(), tmp_path / "cut")
    shutil.rmtree(folder / "vit")
    with pytest.raises(CheckpointError, match="--vision_tower FOLDER"):
        find_vision(tiny().config, folder)


def test_the_option_vision_tower_replaces_what_the_configuration_names(tiny: Make, tmp_path: Path) -> None:
    apart = tmp_path / "tower"
    shutil.copytree(find_vision(tiny().config, tiny().folder), apart)
    chosen = resolve_model(LoadConfig(model=str(tiny().folder), vision_tower=str(apart)))
    assert [part.path for part in chosen.weight_folders] == [tiny().folder, apart]
    with pytest.raises(UsageError, match=r"no folder with a config\.json"):
        resolve_model(LoadConfig(model=str(tiny().folder), vision_tower=str(tmp_path / "none")))


def test_a_single_question_is_sampled_and_a_talk_is_not() -> None:
    assert (FAMILY.generation["temperature"], FAMILY.question["temperature"]) == (0.0, 0.2)
    assert (FAMILY.ask, FAMILY.place) == ("turn", "turns")
