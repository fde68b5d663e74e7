"""vlcore: run and fine-tune vision-language models. Importing this imports neither torch nor transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vlcore.hookspecs import hookimpl

if TYPE_CHECKING:
    from vlcore.config import SftConfig
    from vlcore.export.merging import merge
    from vlcore.model import VLModel, load_model
    from vlcore.train.sft import sft

#: Where the names that need torch live; they are imported when first asked for.
_LAZY = {
    "SftConfig": "vlcore.config",
    "VLModel": "vlcore.model",
    "load_model": "vlcore.model",
    "merge": "vlcore.export.merging",
    "sft": "vlcore.train.sft",
}

__all__ = ["SftConfig", "VLModel", "hookimpl", "load_model", "merge", "sft"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'vlcore' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
