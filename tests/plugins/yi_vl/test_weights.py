from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from vlcore.carry import name_safe
from vlcore.config import LoadConfig
from vlcore.errors import CheckpointError
from vlcore.resolve import Checkpoint, open_checkpoint, resolve_model
from vlcore.shards import read_tensors, write_tensors
from vlcore.weights import save_release
from vlcore_yi_vl.family import find_vision
from vlcore_yi_vl.tiny import STALE

Make = Callable[..., Checkpoint]
CPU = LoadConfig(dtype="fp32", device_map="cpu")
VISION = "vision_model.encoder.layers.0.mlp.fc1.weight"


def read_all(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every file below a folder."""
    paths = [path for path in folder.rglob("*") if path.suffix in (".bin", ".safetensors")]
    return {path.relative_to(folder).as_posix(): read_tensors(path) for path in paths}


def check_same(before: Path, after: Path) -> None:
    files = [{p.relative_to(folder) for p in folder.rglob("*") if p.is_file()} for folder in (before, after)]
    safe = {path.with_name(path.name.replace(".bin.index", ".safetensors.index")) for path in files[0]}
    assert files[1] == {path.with_name(name_safe(path.name.replace("pytorch_", ""))) for path in safe}
    others = [name for name in files[0] & files[1] if name.suffix not in (".bin", ".safetensors")]
    assert all((before / name).read_bytes() == (after / name).read_bytes() for name in others)
    found, expected = read_all(after), read_all(before)
    for file, tensors in expected.items():
        written = found[name_safe(file.replace("pytorch_", ""))]
        assert written.keys() == tensors.keys()
        assert all(torch.equal(tensor, written[name]) for name, tensor in tensors.items())
        assert all(tensor.dtype == written[name].dtype for name, tensor in tensors.items())


@pytest.mark.parametrize("kind", ["6b", "34b"])
def test_saving_gives_the_release_back_bit_for_bit(kind: str, tiny: Make, tmp_path: Path) -> None:
    checkpoint = tiny(kind)
    save_release(checkpoint, checkpoint.call("load_model", config=CPU), tmp_path)
    check_same(checkpoint.folder, tmp_path)


def test_saving_the_recorded_checkpoint_gives_it_back_bit_for_bit(recorded: Checkpoint, tmp_path: Path) -> None:
    save_release(recorded, recorded.call("load_model", config=CPU), tmp_path)
    check_same(recorded.folder, tmp_path)


def test_weights_in_one_file_of_the_other_format_are_read_and_written_as_they_are(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "turned"
    shutil.copytree(tiny().folder, folder)
    vision = find_vision(tiny().config, folder)
    tensors = {n: t for file, held in read_all(folder).items() if "/" not in file for n, t in held.items()}
    for path in folder.glob("model*"):
        path.unlink()
    write_tensors(folder / "pytorch_model.bin", {n: t for n, t in tensors.items() if not n.startswith(STALE)})
    write_tensors(vision / "model.safetensors", read_tensors(vision / "pytorch_model.bin"))
    (vision / "pytorch_model.bin").unlink()
    model = open_checkpoint(folder).call("load_model", config=CPU)
    first = tiny().call("load_model", config=CPU).state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in model.state_dict().items())
    save_release(open_checkpoint(folder), model, tmp_path / "saved")
    check_same(folder, tmp_path / "saved")


def test_the_stale_copy_is_not_read_and_carried_over(tiny: Make, tmp_path: Path) -> None:
    model = tiny().call("load_model", config=CPU)
    with torch.no_grad():
        model.model.vision_tower.encoder.layers[0].mlp.fc1.weight.add_(1)
    save_release(tiny(), model, tmp_path)
    before, after = read_all(tiny().folder), read_all(tmp_path)
    vision = next(file for file in before if file.startswith("vit/"))
    assert torch.equal(after[name_safe(vision.replace("pytorch_", ""))][VISION], before[vision][VISION] + 1)
    assert torch.equal(
        after["model-00002-of-00002.safetensors"][STALE + VISION],
        before["model-00002-of-00002.safetensors"][STALE + VISION],
    )


def test_buffers_of_old_files_are_not_read_and_carried_over(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(tiny().folder, folder)
    main, vision = folder / "model-00001-of-00002.safetensors", find_vision(tiny().config, folder) / "pytorch_model.bin"
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    write_tensors(main, read_tensors(main) | {buffer: torch.ones(4)})
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf8"))
    index["weight_map"] = dict(sorted({**index["weight_map"], buffer: main.name}.items()))
    index["metadata"]["total_size"] += 16
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf8")
    write_tensors(vision, read_tensors(vision) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]})
    save_release(open_checkpoint(folder), open_checkpoint(folder).call("load_model", config=CPU), tmp_path / "saved")
    check_same(folder, tmp_path / "saved")


def test_a_vision_tower_from_elsewhere_is_saved_inside_and_named_so(tiny: Make, tmp_path: Path) -> None:
    apart = tmp_path / "tower"
    shutil.copytree(find_vision(tiny().config, tiny().folder), apart)
    weights = apart / "pytorch_model.bin"
    write_tensors(weights, {name: tensor + 1 for name, tensor in read_tensors(weights).items()})
    chosen = resolve_model(replace(CPU, model=str(tiny().folder), vision_tower=str(apart)))
    save_release(chosen, chosen.call("load_model", config=CPU), tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    assert saved.config == {**tiny().config, "mm_vision_tower": "./vit/tower"}
    assert torch.equal(
        read_tensors(saved.folder / "vit/tower/model.safetensors")[VISION], read_tensors(weights)[VISION]
    )
    assert saved.weight_folders[1].path == saved.folder / "vit/tower"


@pytest.mark.parametrize("name", [VISION, "model.mm_projector.4.bias", "lm_head.weight"])
def test_a_missing_tensor_is_an_error_that_names_it(name: str, tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny().folder, folder)
    for file, tensors in read_all(folder).items():
        write_tensors(folder / file, {key: tensor for key, tensor in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match="1 missing"):
        open_checkpoint(folder).call("load_model", config=CPU)


def test_a_vision_folder_without_weights_is_an_error(tiny: Make, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny().folder, folder)
    (find_vision(tiny().config, folder) / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_checkpoint(folder).call("load_model", config=CPU)


def test_code_in_a_bin_file_is_not_run(tiny: Make, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("run",))

    folder = tmp_path / "trap"
    shutil.copytree(tiny().folder, folder)
    torch.save({"vision_model.a": Trap()}, find_vision(tiny().config, folder) / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        open_checkpoint(folder).call("load_model", config=CPU)
