"""Weights between files and model: nothing missing, nothing left over, and back again bit for bit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError
from vlcore.plugins import get_registry
from vlcore.testing.outcome import Fault

if TYPE_CHECKING:
    import torch

    from vlcore.testing.subject import Subject

#: A layer of several: its tensors are tied to no other.
LAYER = re.compile(r"\.\d+\.")


def check_load(subject: Subject) -> None:
    """Loading reads every tensor and misses none; on the device `meta` the model has the same shapes."""
    model = subject.model.module
    # A few of transformers' own classes have no features of pictures by themselves.
    features = () if subject.family.native else ("get_image_features",)
    for name in ("get_input_embeddings", "get_output_embeddings", "generate", *features):
        if not any(callable(getattr(part, name, None)) for part in (model, model.base_model)):
            raise Fault("the native model", f"it has no {name}()", "give its class one; transformers' classes have it")
    if model.training:
        raise Fault("the native model", "it is loaded in training mode", "return model.eval()")
    skeleton = subject.checkpoint.call("load_model", config=LoadConfig(dtype="fp32", device_map="meta"))
    check_shapes(model, skeleton)
    tensors = read_weights(subject)
    check_refused(subject, {name: tensors[name] for name in tensors if name != choose_lost(subject, tensors)},
                  "without one of its tensors")
    check_refused(subject, {**tensors, "a_tensor_of_no_module.weight": next(iter(tensors.values())).clone()},
                  "with a tensor that it has no place for")


def check_shapes(model: Any, skeleton: Any) -> None:
    """Holds what is built without weights to the loaded model.

    Raises:
        Fault: naming the first parameter that differs.
    """
    loaded, built = ({name: tuple(p.shape) for name, p in each.named_parameters()} for each in (model, skeleton))
    for name in loaded.keys() | built.keys():
        if loaded.get(name) != built.get(name):
            raise Fault(f"parameter {name}", f"loaded it is {loaded.get(name)}, on the device meta {built.get(name)}",
                        "build one model for every device_map: use vlcore.weights.load_pretrained")
    real = sorted({str(p.device) for p in skeleton.parameters()} - {"meta"})
    if real:
        raise Fault("device_map meta", f"there are weights on {', '.join(real)}", "hand `config` to load_pretrained")


def read_weights(subject: Subject) -> dict[str, torch.Tensor]:
    """The tensors in the checkpoint's first folder."""
    from vlcore.shards import list_files, read_tensors

    folder = subject.checkpoint.weight_folders[0].path
    return {name: tensor for path in list_files(folder) for name, tensor in read_tensors(path).items()}


def choose_lost(subject: Subject, tensors: Mapping[str, torch.Tensor]) -> str:
    """A tensor that the model cannot do without."""
    folder = subject.checkpoint.weight_folders[0]
    read = [name for name in sorted(tensors) if folder.reads(name)]
    return next(filter(LAYER.search, read), read[0])


def check_refused(subject: Subject, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Holds the plugin to refusing a checkpoint whose tensors do not fit.

    Raises:
        Fault: when it loads, or fails otherwise than with a CheckpointError.
    """
    from vlcore.shards import list_files, write_tensors

    broken = subject.new_folder("broken")
    shutil.copytree(subject.folder, broken, dirs_exist_ok=True)
    weights = list_files(broken)
    for path in (*weights[1:], *broken.glob("*.index.json")):
        path.unlink()
    write_tensors(weights[0].rename(broken / "model.safetensors"), tensors)
    try:
        subject.load(broken)
    except CheckpointError:
        return
    except Exception as error:
        raise Fault(f"a checkpoint {what}", f"it raises {type(error).__name__}: {error}", "raise a CheckpointError: "
                    "use vlcore.weights.load_pretrained, or hand its report to check_report") from error
    raise Fault(f"a checkpoint {what}", "it is loaded without a word, so weights could be random or lost",
                "read strictly: use vlcore.weights.load_pretrained, or hand the report of loading to check_report")


def check_release(subject: Subject) -> None:
    """A model that is loaded and saved has the files, names, shapes, dtypes and bits of its release."""
    from vlcore.export.merging import restore_dtypes

    checkpoint, output = subject.checkpoint, subject.new_folder("saved")
    get_registry().call("merge", checkpoint.owner, checkpoint=checkpoint, model=subject.load().module, output=output)
    for folder in checkpoint.weight_folders:
        restore_dtypes(folder.path, output / folder.inside)
        compare_weights(folder.path, output / folder.inside)
        compare_others(folder.path, output / folder.inside)


def compare_weights(release: Path, saved: Path) -> None:
    """Holds the tensors of a saved folder to those of the release.

    Raises:
        Fault: naming the tensors.
    """
    import torch

    from vlcore.carry import name_safe
    from vlcore.shards import read_places, read_tensors

    old, new = read_places(release), read_places(saved)
    for word, names in (("lost", old.keys() - new.keys()), ("added", new.keys() - old.keys())):
        if names:
            raise Fault("saving", f"tensors are {word}: {', '.join(sorted(names)[:5])}",
                        "make the renamings of loading reversible, or fill the hook merge")
    moved = sorted(name for name, file in old.items() if new[name] != name_safe(file))
    if moved:
        raise Fault(f"tensor {moved[0]}", f"it was in {old[moved[0]]} and is saved in {new[moved[0]]}",
                    "keep the release's division into files")
    for file in sorted(set(old.values())):
        before, after = read_tensors(release / file), read_tensors(saved / name_safe(file))
        for name, tensor in before.items():
            if (tensor.shape, tensor.dtype) != (after[name].shape, after[name].dtype):
                raise Fault(f"tensor {name}", f"{tensor.dtype} {tuple(tensor.shape)} is saved as {after[name].dtype} "
                            f"{tuple(after[name].shape)}", "reverse what loading does to it")
            if not torch.equal(tensor, after[name]):
                raise Fault(f"tensor {name}", "it is saved with other numbers than it was loaded with",
                            "reverse what loading does to it, without rounding")


def compare_others(release: Path, saved: Path) -> None:
    """Holds the other files of a saved folder to those of the release.

    Raises:
        Fault: naming the files that are missing.
    """
    from vlcore.weights import WEIGHT_ENDINGS

    files = [path.name for path in release.iterdir() if path.is_file() and not path.name.endswith(WEIGHT_ENDINGS)]
    missing = sorted(name for name in files if not (saved / name).is_file())
    if missing:
        raise Fault("saving", f"files of the release are missing: {', '.join(missing)}",
                    "carry over all files but the weights, as vlcore.weights.copy_others does")
