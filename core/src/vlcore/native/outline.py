"""What a processor writes for a picture, told from its size alone.

transformers' processors write the ids of a picture in view of what they have computed of it (`replace_image_token`).
For those that are known here the same is told from sizes, as much as they look at; for others a black picture of the
size is computed. Either way the outcome is compared when the picture itself is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vlcore.media import Size

#: What `replace_image_token` looks at, from the processor, a picture's size, whether it is one of several, and the
#: settings; None when that cannot be told.
Outline = Callable[[Any, Size, bool, Mapping[str, Any]], Mapping[str, Any] | None]


def outline_crop(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """One square that is cut out of the middle."""
    pictures = processor.image_processor
    return {"pixel_values": [make_shape(read_edge(pictures))]} if pictures.do_center_crop else None


def outline_same(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same for every picture."""
    return {}


def outline_scan(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The same for every picture, unless it is cut up."""
    return None if settings.get("do_pan_and_scan", processor.image_processor.do_pan_and_scan) else {"num_crops": [0]}


def outline_anyres(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A square of the whole, and those of the grid that suits its shape best; of several pictures the first alone."""
    width, height = size
    edge = read_edge(processor.image_processor)
    return {"image_sizes": [[height, width]], "pixel_values": [[make_shape(edge)]],
            "batch_num_images": [2, 0] if several else [1]}


def outline_grid(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Patches of the picture in a size of its own."""
    import numpy

    pictures = processor.image_processor
    limits = {**dict(pictures.size), **settings.get("size", {})}
    height, width = sys.modules[type(pictures).__module__].smart_resize(
        size[1], size[0], pictures.patch_size * pictures.merge_size,
        min_pixels=limits["shortest_edge"], max_pixels=limits["longest_edge"],
    )
    return {"image_grid_thw": numpy.array([[1, height // pictures.patch_size, width // pictures.patch_size]])}


def outline_split(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Rows and columns of tiles, and the whole."""
    _, rows, columns = processor.image_processor.get_number_of_image_patches(size[1], size[0], dict(settings))
    return {"rows": [[rows]], "cols": [[columns]]}


def outline_tiles(processor: Any, size: Size, several: bool, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Tiles, and the whole."""
    return {"num_patches": [processor.image_processor.get_number_of_image_patches(size[1], size[0], dict(settings))]}


#: Processors whose ids are told from sizes, by the names of their classes.
OUTLINES: Mapping[str, Outline] = MappingProxyType({
    "AyaVisionProcessor": outline_tiles,
    "DeepseekVLProcessor": outline_same,
    "DeepseekVLHybridProcessor": outline_same,
    "Gemma3Processor": outline_scan,
    "Idefics3Processor": outline_split,
    "InternVLProcessor": outline_tiles,
    "LlavaNextProcessor": outline_anyres,
    "LlavaOnevisionProcessor": outline_anyres,
    "LlavaProcessor": outline_crop,
    "PaliGemmaProcessor": outline_same,
    "Qwen2VLProcessor": outline_grid,
    "Qwen2_5_VLProcessor": outline_grid,
    "Qwen3VLProcessor": outline_grid,
    "SmolVLMProcessor": outline_split,
})


def make_shape(edge: int) -> Any:
    """A square picture of which only the shape is looked at."""
    import numpy

    return numpy.broadcast_to(numpy.float32(0), (3, edge, edge))


def read_edge(pictures: Any) -> int:
    """Edge of the squares that an image processor makes, in pixels."""
    crop, size = getattr(pictures, "crop_size", None), pictures.size
    if getattr(pictures, "do_center_crop", False) and crop:
        return int(crop["height"])
    return int(size["height"] if size.get("height") else size["shortest_edge"])
