"""A quantized export: bitsandbytes' weights under native names, in a release's folder that vlcore loads."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.export.merging import write_merged
from vlcore.resolve import ORIGIN_FILE, open_checkpoint
from vlcore.weights import copy_others

if TYPE_CHECKING:
    from vlcore.config import LoadConfig
    from vlcore.resolve import Checkpoint


def write_quantized(release: Checkpoint, config: LoadConfig, adapter: Path | None, folder: Path, bits: int) -> None:
    """Writes a model with its linear layers in 4 or 8 bit, an adapter merged into it before where there is one.

    Raises:
        ExtraMissing: without bitsandbytes.
    """
    if adapter is None:
        save_quantized(release, config, folder, bits)
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as merged:
        write_merged(release, config, adapter, Path(merged))
        whole = open_checkpoint(Path(merged), release.record)
        save_quantized(whole, replace(config, model=merged, vision_tower=""), folder, bits)


def save_quantized(release: Checkpoint, config: LoadConfig, folder: Path, bits: int) -> None:
    """Quantizes a model while it is loaded, and saves it."""
    model = release.call("load_model", config=replace(config, dtype="auto", device_map="auto", quantization_bit=bits))
    copy_others(release, folder)
    written = (folder / "config.json").read_bytes()
    model.save_pretrained(folder, save_original_format=False)
    # The release's own configuration names the family's files; how the weights are quantized is noted beside it.
    (folder / "config.json").write_bytes(written)
    note = {
        "model_type": release.record.name if release.record else "",
        "quantization": model.config.quantization_config.to_dict(),
    }
    (folder / ORIGIN_FILE).write_text(json.dumps(note, default=str) + "\n", encoding="utf8")
