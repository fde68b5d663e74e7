"""Vision towers by name: the tables that the release keeps in its code, and transformers' settings from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlcore.errors import CheckpointError

#: SigLIP towers by `model_name`.
SIGLIP: dict[str, dict[str, Any]] = {
    "siglip_large_patch16_384": {"patch_size": 16, "width": 1024, "layers": 24, "heads": 16, "mlp_ratio": 4},
    "siglip_so400m_patch14_384": {"patch_size": 14, "width": 1152, "layers": 27, "heads": 16, "mlp_ratio": 3.7362},
    "siglip_so400m_patch14_224": {"patch_size": 14, "width": 1152, "layers": 27, "heads": 16, "mlp_ratio": 3.7362},
}
_SAM: dict[str, Any] = {"patch_size": 16, "prompt_embed_dim": 256}
_SAM_B = {**_SAM, "width": 768, "layers": 12, "heads": 12, "global_attn_indexes": [2, 5, 8, 11]}
#: SAM towers by `model_name`.
SAM: dict[str, dict[str, Any]] = {
    "sam_b_downsample": {**_SAM_B, "downsample_channels": [512, 1024]},
    "sam_vit_b": _SAM_B,
    "sam_vit_l": {**_SAM, "width": 1024, "layers": 24, "heads": 16, "global_attn_indexes": [5, 11, 17, 23]},
    "sam_vit_h": {**_SAM, "width": 1280, "layers": 32, "heads": 16, "global_attn_indexes": [7, 15, 23, 31]},
}
#: What a tower's class takes for what its parameters leave out.
DEFAULTS: Mapping[str, Any] = {"model_name": "siglip_large_patch16_384", "image_size": 336, "select_layer": -2}
#: Edge in patches of SAM's windows.
WINDOW = 14


def read_tower(params: Mapping[str, Any], table: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A tower's parameters with the table's entry for its `model_name`, else with its own `preset`.

    Raises:
        CheckpointError: for a name that is not in the table when there is no preset.
    """
    given = {**DEFAULTS, **params}
    preset = table.get(given["model_name"], given.get("preset"))
    if preset is None:
        known = f"known are {', '.join(table)}"
        raise CheckpointError(f"vision tower {given['model_name']}", "the release's tables do not have it", known)
    return {**preset, **given}


def siglip_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' settings of a SigLIP tower: exact GELU, no pooling head, upper layers left out."""
    tower = read_tower(params, SIGLIP)
    return {
        "model_type": "siglip_vision_model",
        "image_size": tower["image_size"],
        "patch_size": tower["patch_size"],
        "hidden_size": tower["width"],
        "intermediate_size": int(tower["width"] * tower["mlp_ratio"]),
        "num_hidden_layers": count_layers(tower["layers"], tower["select_layer"]),
        "num_attention_heads": tower["heads"],
        "hidden_act": "gelu",
        "vision_use_head": False,
    }


def count_layers(layers: int, select_layer: int) -> int:
    """Layers of SigLIP that are built: `select_layer` counts from the start, or from the end when not positive.

    >>> count_layers(24, -1), count_layers(24, -2), count_layers(24, 20)
    (24, 23, 20)
    """
    return min(layers, select_layer if select_layer > 0 else layers + select_layer + 1)


def sam_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' settings of a SAM tower. `select_layer` does nothing there."""
    tower = read_tower(params, SAM)
    return {
        "model_type": "sam_vision_model",
        "image_size": tower["image_size"],
        "patch_size": tower["patch_size"],
        "hidden_size": tower["width"],
        "num_hidden_layers": tower["layers"],
        "num_attention_heads": tower["heads"],
        "mlp_ratio": 4.0,
        "output_channels": tower["prompt_embed_dim"],
        "global_attn_indexes": list(tower["global_attn_indexes"]),
        "window_size": WINDOW,
    }


def downsample_channels(params: Mapping[str, Any]) -> list[int]:
    """Channels behind each of the convolutions that halve SAM's grid."""
    return list(read_tower(params, SAM).get("downsample_channels", ()))


def normalization(params: Mapping[str, Any]) -> list[list[float]] | None:
    """Mean and deviation that are applied inside the model before a tower, or None."""
    mean, deviation = params.get("pixel_mean"), params.get("pixel_std")
    return [list(mean), list(deviation)] if mean is not None and deviation is not None else None
