"""Hubs: the files of a model or data set on this machine. ModelScope by default, Hugging Face with `USE_HF=1`.

Nothing here runs when a local folder is given. Files are data: code that comes with a checkpoint is stored but
never imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from vlcore.errors import DataError, ExtraMissing, ModelNotFound, VlcoreError
from vlcore.family import ModelRecord


def uses_huggingface() -> bool:
    """Whether the environment asks for Hugging Face (`USE_HF=1`) instead of ModelScope."""
    return os.environ.get("USE_HF", "").lower() in {"1", "true", "yes"}


def download_model(model: ModelRecord | str, token: str = "", revision: str = "") -> Path:
    """The local folder of a model, downloaded unless the hub's cache has it.

    Args:
        model: a registered model or a hub id.
        token: for private models; else `HF_TOKEN` or `MODELSCOPE_API_TOKEN`.
        revision: branch, tag or commit.

    Raises:
        ModelNotFound: when the hub cannot be reached or does not have it.
        ExtraMissing: when ModelScope is asked and its library is not installed.
    """
    if uses_huggingface():
        return _download_huggingface(model if isinstance(model, str) else model.huggingface, token, revision)
    hub_id = model if isinstance(model, str) else model.modelscope or model.huggingface
    return _download_modelscope(hub_id, token, revision)


def _download_huggingface(hub_id: str, token: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, token=token or None, revision=revision or None))
    except Exception as error:
        # The hub library raises a dozen kinds, network faults among them; each means the same to the user.
        raise _not_downloaded(hub_id, "Hugging Face", error) from error


def download_dataset(hub_id: str, token: str = "") -> Path:
    """The local folder of a data set on ModelScope, downloaded unless the hub's cache has it.

    Raises:
        DataError: when the hub cannot be reached or does not have it.
        ExtraMissing: when ModelScope's library is not installed.
    """
    try:
        from modelscope.hub.api import HubApi
        from modelscope.hub.snapshot_download import dataset_snapshot_download
    except ImportError as error:
        raise ExtraMissing(f"dataset {hub_id} from ModelScope", "modelscope", "modelscope") from error
    token = token or os.environ.get("MODELSCOPE_API_TOKEN", "")
    try:
        if token:
            HubApi().login(token)
        return Path(dataset_snapshot_download(hub_id))
    except Exception as error:
        other = "write HF::ID to ask Hugging Face, or give a local file"
        raise _not_given(f"dataset {hub_id}", "ModelScope", error, other, DataError) from error


def _download_modelscope(hub_id: str, token: str, revision: str) -> Path:
    try:
        from modelscope.hub.api import HubApi
        from modelscope.hub.snapshot_download import snapshot_download
    except ImportError as error:
        raise ExtraMissing(f"model {hub_id} from ModelScope", "modelscope", "modelscope") from error
    token = token or os.environ.get("MODELSCOPE_API_TOKEN", "")
    try:
        if token:
            HubApi().login(token)
        return Path(snapshot_download(hub_id, revision=revision or None))
    except Exception as error:
        raise _not_downloaded(hub_id, "ModelScope", error) from error


def _not_downloaded(hub_id: str, hub: str, error: Exception) -> VlcoreError:
    other = "unset USE_HF to ask ModelScope" if uses_huggingface() else "set USE_HF=1 to ask Hugging Face"
    return _not_given(f"model {hub_id}", hub, error, f"{other}, or give a local folder with --model", ModelNotFound)


def _not_given(given: str, hub: str, error: Exception, other: str, kind: type[VlcoreError]) -> VlcoreError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return kind(given, f"{hub} did not give it ({reason})", f"check the name and the network, {other}")
