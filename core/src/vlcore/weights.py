"""Weights: a release's tensors into a native model and back, strictly in both directions."""

from __future__ import annotations

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from vlcore.carry import carry_index, name_safe
from vlcore.errors import CheckpointError, ExtraMissing, UsageError, first_line
from vlcore.family import WeightFolder
from vlcore.placement import place_model, read_device_map
from vlcore.resolve import ORIGIN_FILE, read_json
from vlcore.shards import SINGLE_FILES, open_folders, read_places, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from vlcore.config import Attention, LoadConfig
    from vlcore.resolve import Checkpoint

_log = logging.getLogger(__name__)
#: Ways of transformers to spread a model over the GPUs.
DEVICE_MAPS = ("balanced", "balanced_low_0", "sequential")
#: Endings of files that hold weights; everything else in a release is carried over as it is.
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".safetensors.index.json", ".bin.index.json")


def load_pretrained(
    model_class: Any, native: PretrainedConfig, checkpoint: Checkpoint, config: LoadConfig
) -> PreTrainedModel:
    """A native model with the weights of a checkpoint.

    Args:
        model_class: a class with `from_pretrained`, its conversion mapping registered when the layout is foreign.
        native: its configuration.
        checkpoint: the folder to read; `.bin` files are read with `weights_only`.
        config: dtype, device map, quantization, attention implementation. On the device `meta` the model
            has every shape and no weight, and no file is read.

    Raises:
        CheckpointError: for missing, left-over or misshapen tensors, and for damaged files.
        ExtraMissing: when quantization is asked for and bitsandbytes is not installed.
        UsageError: for a device or an attention implementation that is not there.
    """
    arguments: dict[str, Any] = {"dtype": choose_dtype(config.dtype, checkpoint.config)}
    arguments |= choose_attention(config.attention)
    if config.device_map == "meta":
        return build_skeleton(model_class, native, arguments)
    arguments |= choose_place(model_class, native, checkpoint, config, arguments)
    bits, saved = config.quantization_bit, read_quantization(checkpoint.folder)
    if saved and bits:
        raise UsageError(f"quantization_bit {bits}", f"{checkpoint.folder} is quantized already", "leave it out")
    if bits:
        arguments["quantization_config"] = quantize_config(bits, arguments["dtype"])
    if saved:
        native.quantization_config = saved
        bits = 4 if saved.get("load_in_4bit") else 8
    folders = (WeightFolder(path=checkpoint.folder),) if saved else checkpoint.weight_folders
    for folder in folders:
        check_files(folder.path)
    alone = len(folders) == 1 and not folders[0].unread
    try:
        model, report = model_class.from_pretrained(
            checkpoint.folder if alone else None, config=native, state_dict=None if alone else open_folders(folders),
            output_loading_info=True, local_files_only=True, **arguments,
        )
    except (OSError, RuntimeError, ValueError, ImportError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"checkpoint {checkpoint.folder}", f"its weights cannot be loaded ({first_line(error)})", "copy it again"
        ) from error
    check_report(report, checkpoint.folder)
    keep_used(model)
    if bits == 4:
        keep_unpacked(model)
    if bits == 8:
        flatten_maps(model)
    return model.eval()  # type: ignore[no-any-return]


def build_skeleton(model_class: Any, native: PretrainedConfig, arguments: Mapping[str, Any]) -> PreTrainedModel:
    """The model on the meta device: every shape, no weight, no memory."""
    import torch

    with torch.device("meta"):
        model: PreTrainedModel = model_class._from_config(native, **arguments)
    model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def choose_place(
    model_class: Any, native: PretrainedConfig, checkpoint: Checkpoint, config: LoadConfig, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The `device_map` argument: as a file says, spread over the GPUs, or one device.

    Raises:
        UsageError: for devices that are not there or too small.
    """
    import torch

    several = config.device_map == "auto" and (config.device_max_memory or torch.cuda.device_count() > 1)
    if not several and not config.device_map_config_path:
        return choose_device(config.device_map)
    skeleton = build_skeleton(model_class, native, arguments)
    if config.device_map_config_path:
        return {"device_map": read_device_map(config.device_map_config_path, skeleton)}
    check_devices(len(config.device_max_memory))
    placement = place_model(skeleton, checkpoint.parts, config, arguments["dtype"])
    for line in placement.describe():
        _log.info(line)
    return {"device_map": placement.device_map}


def check_devices(wanted: int) -> None:
    """Refuses sizes for more GPUs than there are.

    Raises:
        UsageError: naming both numbers.
    """
    import torch

    count = torch.cuda.device_count()
    if wanted > count:
        raise UsageError(f"device_max_memory of {wanted} devices", f"torch sees {count} GPUs", "give a size for each")


def read_quantization(folder: Path) -> dict[str, Any]:
    """How the weights that vlcore has exported into a folder are quantized; empty when they are not."""
    origin = folder / ORIGIN_FILE
    return dict(read_json(origin).get("quantization") or {}) if origin.is_file() else {}


def keep_used(model: PreTrainedModel) -> None:
    """Leaves saving only the renamings that loading has used.

    transformers does so itself, except under ZeRO-3, where saving would also reverse those it has for old files.
    """
    used = [conversion for conversion in getattr(model, "_weight_conversions", None) or () if conversion.was_used()]
    if used:
        model._weight_conversions = used  # type: ignore[assignment]


def check_files(folder: Path) -> None:
    """Refuses safetensors files that are cut short or not there, before anything is loaded.

    Raises:
        CheckpointError: naming the file.
    """
    from safetensors import SafetensorError, safe_open

    for index in sorted(folder.glob("*.index.json")):
        listed = set(json.loads(index.read_text(encoding="utf8")).get("weight_map", {}).values())
        missing = sorted(name for name in listed if not (folder / name).is_file())
        if missing:
            why = f"{', '.join(missing[:5])} of {index.name} is not there"
            raise CheckpointError(f"folder {folder}", why, "copy it again")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            why = f"it is not whole ({first_line(error)})"
            raise CheckpointError(f"file {path}", why, "copy or download it again") from error


def check_report(report: Mapping[str, Any], folder: Path) -> None:
    """Raises unless every tensor of the model was read and every tensor of the files was used."""
    kinds = {"missing_keys": "missing", "unexpected_keys": "left over", "mismatched_keys": "of another shape",
             "error_msgs": "in error"}
    faults = []
    for key, word in kinds.items():
        names = sorted(map(str, report.get(key, ())))
        if names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            faults.append(f"{len(names)} {word}: {', '.join(names[:10])}{more}")
    if faults:
        raise CheckpointError(
            f"checkpoint {folder}", f"its tensors do not fit the model ({'; '.join(faults)})",
            "check that config.json and the weights belong together",
        )


def choose_dtype(name: str, release: Mapping[str, Any]) -> torch.dtype:
    """The dtype of the weights in memory: `auto` is bf16 (or fp16) on a GPU and float32 on a CPU."""
    import torch

    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name != "auto":
        return named[name]
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def choose_device(name: str) -> dict[str, Any]:
    """The `device_map` argument: `auto` spreads over the GPUs when there are any.

    Raises:
        UsageError: for a device that is not there.
    """
    import torch

    if name == "auto":
        return {"device_map": "auto"} if torch.cuda.is_available() else {}
    if name in DEVICE_MAPS:
        return {"device_map": name}
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device_map {name}", "there is no such device", "use auto, cpu or cuda:0") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"device_map {name}", f"torch sees {count} GPUs", "use auto or cpu")
    return {"device_map": name} if device.type != "cpu" else {}


def choose_attention(name: Attention) -> dict[str, Any]:
    """The `attn_implementation` argument; `auto` leaves it to transformers.

    Raises:
        UsageError: for flash attention where its package is missing.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    if name == "flash_attention_2" and not is_flash_attn_2_available():
        why = "it needs a GPU and the package flash-attn"
        raise UsageError(f"attn {name}", why, "install it, or use --attn sdpa (--use_flash_attn false)")
    return {"attn_implementation": name} if name != "auto" else {}


def quantize_config(bits: int, dtype: torch.dtype) -> Any:
    """bitsandbytes settings for 4 bits (NF4, double quantization) or 8 bits (LLM.int8)."""
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ExtraMissing(f"--quantization_bit {bits}", "bitsandbytes", "qlora")
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def keep_unpacked(model: PreTrainedModel, *, every: bool = False) -> None:
    """Keeps 4-bit layers in bitsandbytes' plain layout on a CPU.

    On some CPUs it repacks a layer for good at its first evaluation: the layer then has no gradient, its scales
    are rounded to bf16, and outputs that 32 does not divide fail, as do inputs that 64 does not.

    Args:
        model: a model loaded in 4 bits.
        every: all layers, for training; else those whose size would fail.
    """
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "support_avx512bf16_for_cpu")]
    for layer in layers:
        if every or layer.out_features % 32 or layer.in_features % 64:
            layer.support_avx512bf16_for_cpu = False


def flatten_maps(model: PreTrainedModel) -> None:
    """Lets 8-bit layers take maps, (images, rows, columns, width), which bitsandbytes itself does not."""
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt":
            module.forward = partial(_forward_flat, module.forward)


def _forward_flat(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return forward(x) if x.ndim < 4 else forward(x.flatten(0, -2)).reshape(*x.shape[:-1], -1)


def save_release(checkpoint: Checkpoint, model: PreTrainedModel, output: Path) -> None:
    """Writes a model in its release's layout: same tensor names, same division into files, same other files.

    Args:
        checkpoint: the release the model came from.
        model: the native model in full precision.
        output: an empty folder.

    Raises:
        UsageError: for a quantized model, whose weights cannot be written back.
        CheckpointError: when a tensor has no place in the release.
    """
    from transformers.core_model_loading import revert_weight_conversion

    if getattr(model, "hf_quantizer", None) is not None:
        why = "its weights are not those of the release"
        raise UsageError("a quantized model", why, "load it without quantization_bit")
    folders = checkpoint.weight_folders
    state = drop_twins(revert_weight_conversion(model, model.state_dict()), folders)
    shards = divide_tensors(folders, state)
    copy_others(checkpoint, output)
    for folder in folders:
        write_folder(folder, shards[folder], state, output / folder.inside)


def write_folder(
    folder: WeightFolder, shards: Mapping[str, Sequence[str]], state: Mapping[str, torch.Tensor], target: Path
) -> None:
    """Writes the weights of one folder, those that the release does not read with the bits they have there."""
    carry_index(folder.path, target)
    for file, names in shards.items():
        carried = [name for name in names if name not in state]
        tensors = {name: state[name] for name in names if name in state}
        tensors |= read_tensors(folder.path / file, carried) if carried else {}
        write_tensors(target / name_safe(file), tensors)


def drop_twins(state: Mapping[str, torch.Tensor], folders: Sequence[WeightFolder]) -> dict[str, torch.Tensor]:
    """The tensors without those that share another's memory and have no place in the release, as a tied head."""
    named = {name for folder in folders for name in read_places(folder.path)}
    kept = {tensor.data_ptr() for name, tensor in state.items() if name in named}
    return {name: t for name, t in state.items() if name in named or not named or t.data_ptr() not in kept}


def divide_tensors(
    folders: Sequence[WeightFolder], state: Mapping[str, torch.Tensor]
) -> dict[WeightFolder, dict[str, list[str]]]:
    """Which tensors go into which file of which folder: as the release has it, else one file for all.

    Raises:
        CheckpointError: when a release names its tensors and one of these is not among them.
    """
    places = {folder: read_places(folder.path) for folder in folders}
    if not any(places.values()):
        return {folders[0]: {SINGLE_FILES[0]: list(state)}}
    unknown = state.keys() - {name for held in places.values() for name in held}
    lost = [n for folder, held in places.items() for n in held if n not in state and folder.reads(n)]
    if unknown or lost:
        raise CheckpointError(
            f"saving in the layout of {folders[0].path}",
            f"tensors without a place: {sorted(unknown)[:5]}, places without a tensor: {lost[:5]}",
            "report this to the author of the model's plugin",
        )
    shards: dict[WeightFolder, dict[str, list[str]]] = {}
    for folder, held in places.items():
        files: dict[str, list[str]] = defaultdict(list)
        for name, file in held.items():
            files[file].append(name)
        shards[folder] = dict(sorted(files.items()))
    return shards


def copy_others(checkpoint: Checkpoint, output: Path) -> None:
    """Carries over everything of a release but its weights, each folder's files where a saved release has them."""
    for folder in checkpoint.weight_folders:
        target = output / folder.inside
        target.mkdir(parents=True, exist_ok=True)
        copy_other_files(folder.path, target)
    point_inside(checkpoint, output)


def point_inside(checkpoint: Checkpoint, output: Path) -> None:
    """Makes a saved `config.json` name the vision tower that was saved with it, where the model's lay elsewhere."""
    for folder in checkpoint.weight_folders:
        if folder.path.resolve() != (checkpoint.folder / folder.inside).resolve():
            config = read_json(output / "config.json") | {checkpoint.family.vision_key: f"./{folder.inside}"}
            text = json.dumps(config, indent=2, ensure_ascii=False)
            (output / "config.json").write_text(text + "\n", encoding="utf8")


def copy_other_files(source: Path, output: Path) -> None:
    """Carries over everything of a release but its weights: configuration, tokenizer, licence, code as data."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(WEIGHT_ENDINGS):
            shutil.copyfile(path, output / path.name)
