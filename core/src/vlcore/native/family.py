"""Families made on the spot, for checkpoints that transformers loads and no plugin recognises."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlcore.errors import ModelNotFound
from vlcore.family import ConfigJson, FamilyOption, ModelFamily
from vlcore.native.talk import TAGS
from vlcore.resolve import read_json

#: Settings of image processors that users may choose, by the names they have there.
OPTIONS: Mapping[str, FamilyOption] = MappingProxyType({option.name: option for option in (
    FamilyOption(name="min_pixels", kind=int, minimum=1, help="Least pixels of a picture as the model sees it."),
    FamilyOption(name="max_pixels", kind=int, minimum=1, help="Most pixels of a picture as the model sees it."),
    FamilyOption(name="min_patches", kind=int, minimum=1, help="Least tiles a picture is cut into."),
    FamilyOption(name="max_patches", kind=int, minimum=1, help="Most tiles a picture is cut into."),
    FamilyOption(name="do_image_splitting", kind=bool, help="Whether a picture is cut into tiles."),
    FamilyOption(name="do_pan_and_scan", kind=bool, help="Whether parts of a long picture are looked at besides."),
)})
#: Frames of a video, each of which is a picture to the model.
FRAMES = FamilyOption(name="num_frames", kind=int, minimum=1, default=8, help="Frames that are taken of a video.")
#: Model types that transformers lists beside the others and that work in another way.
UNFIT: Mapping[str, str] = MappingProxyType({
    "mllama": "it sees pictures through layers of its own, whose keys vlcore does not keep",
    "diffusion_gemma": "it writes whole blocks at a time",
    "pi0": "it moves robots",
})


def list_types() -> frozenset[str]:
    """Model types that transformers has for pictures and text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def make_family(config: ConfigJson, folder: Path) -> ModelFamily | None:
    """The family of a checkpoint of one of transformers' own model types, or None.

    Raises:
        ModelNotFound: for a model type that works in another way than the core's defaults.
    """
    model_type = str(config.get("model_type"))
    if model_type not in list_types():
        return None
    why = "it has an encoder and a decoder" if config.get("is_encoder_decoder") else UNFIT.get(model_type)
    if why:
        raise ModelNotFound(f"checkpoint {folder}", f"models of type {model_type} do not answer as others do: {why}",
                            "take another model, or install a plugin for it")
    return ModelFamily(name=model_type, native=(model_type,), options=list_options(folder), tags=TAGS)


def list_options(folder: Path) -> tuple[FamilyOption, ...]:
    """The options that a checkpoint's image processor has, told from its settings."""
    given = read_pictures(folder)
    # What files name otherwise, or leave out where it is the default: patches that are merged by squares are limited
    # by their pixels, which newer files write as a size.
    scans = str(given.get("image_processor_type")).startswith("Gemma3")
    known = {*given, *(("min_pixels", "max_pixels") if "merge_size" in given else ()),
             *(("do_pan_and_scan",) if scans else ())}
    return (FRAMES, *(option for name, option in OPTIONS.items() if name in known))


def read_pictures(folder: Path) -> Mapping[str, Any]:
    """Settings of a checkpoint's image processor: in the file of the processor, or their own."""
    whole, own = folder / "processor_config.json", folder / "preprocessor_config.json"
    inner = read_json(whole).get("image_processor") if whole.is_file() else None
    if isinstance(inner, dict):
        return inner
    return read_json(own) if own.is_file() else {}
