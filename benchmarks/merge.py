"""Time and memory of merging an adapter, against `cp` of the same files, side by side.

    python benchmarks/merge.py [--gigabytes 4] [--rounds 3] [--targets ALL] [--folder /tmp] [--small]

Writes a release with random bf16 weights in InternVL2's layout, in files of about 1 GB, and an adapter for it; both
are removed in the end. Copies and merges take turns, each followed by fsync of what it wrote. Memory is the peak of
resident pages (VmHWM) of a process of its own, next to one that only imports the same libraries. `--small` is for
trying the script: some megabytes instead.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from vlcore.config import LoadConfig, LoraConfig
from vlcore.export.adapted import fill_hollow
from vlcore.layout import LayoutWriter, make_layout
from vlcore.lora import add_adapters
from vlcore.resolve import open_checkpoint
from vlcore.shards import write_index
from vlcore_internvl.tiny import KINDS, describe_model, write_tiny

GIGABYTE = 10**9
#: Run in a process of its own: merges when it is given folders; prints seconds and bytes of peak memory.
CHILD = """
import json, sys, time
import peft, torch, transformers
from vlcore.export.merging import merge
start = time.perf_counter()
if sys.argv[1:]:
    merge(*sys.argv[1:])
seconds = time.perf_counter() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, int(peak.split()[1]) * 1024]))
"""


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--targets", default="ALL", help="DEFAULT or ALL, as --lora_target_modules")
    parser.add_argument("--folder", default=None, help="where to write; needs three times the size")
    parser.add_argument("--small", action="store_true")
    return parser.parse_args()


def write_release(folder: Path, size: float, shard: float) -> None:
    """A release of about `size` bytes, in files of about `shard` bytes."""
    write_tiny(folder, "internlm2", width=64, layers=1)
    (folder / "model.safetensors").unlink()
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf8"))["llm_config"]["vocab_size"]
    width, words = (4096, 92_553) if size >= GIGABYTE else (256, vocabulary)
    # A layer of the language model has ten times its width squared, one of the vision tower two, in two bytes each.
    layers = max(1, round((size / 2 - 2 * words * width) / (12 * width**2)))
    config = describe_model(KINDS["internlm2"], words, 448, width, layers)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf8")
    chunk = torch.randn(1 << 24).mul_(0.02).bfloat16()
    files = list(divide(describe_weights(folder), shard))
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    for name, tensors in zip(names, files, strict=True):
        writer = LayoutWriter(folder / name, make_layout(tensors), id)
        for key, tensor in tensors.items():
            writer.write(key, [chunk.repeat(-(-tensor.numel() // len(chunk)))[: tensor.numel()]])
    places = {key: name for name, tensors in zip(names, files, strict=True) for key in tensors}
    write_index(folder, "model.safetensors", places, sum(path.stat().st_size for path in folder.glob("*.safetensors")))


def describe_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a release by name, without data."""
    from transformers.core_model_loading import revert_weight_conversion

    skeleton = open_checkpoint(folder).call("load_model", config=LoadConfig(device_map="meta", dtype="bf16"))
    return revert_weight_conversion(skeleton, skeleton.state_dict())


def divide(tensors: dict[str, torch.Tensor], shard: float) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors in files of about this size."""
    part: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if part and sum(t.nbytes for t in part.values()) + tensor.nbytes > shard:
            yield part
            part = {}
        part[name] = tensor
    yield part


def write_adapter(release: Path, folder: Path, targets: str) -> None:
    """An adapter of rank 8 with random values."""
    checkpoint = open_checkpoint(release)
    skeleton = checkpoint.call("load_model", config=LoadConfig(device_map="meta", dtype="fp32"))
    fill_hollow(skeleton)
    adapted = add_adapters(checkpoint, skeleton, LoraConfig(lora_target_modules=(targets,)))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.01)
    adapted.save_pretrained(folder, save_embedding_layers=False)


def copy(source: Path, target: Path) -> float:
    """Seconds of `cp`, the files on the disk in the end."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    for path in target.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - start


def run_child(*arguments: Path) -> tuple[float, int]:
    """Seconds and peak memory of a process that merges, or of one that only imports."""
    done = subprocess.run([sys.executable, "-c", CHILD, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def main() -> None:
    given = read_arguments()
    size, shard = (3e7, 1e7) if given.small else (given.gigabytes * GIGABYTE, GIGABYTE)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        release, adapter, output = (Path(scratch) / name for name in ("release", "adapter", "output"))
        if shutil.disk_usage(scratch).free < 3 * size:
            sys.exit(f"{scratch} has less room than {3 * size / GIGABYTE:.0f} GB")
        release.mkdir()
        write_release(release, size, shard)
        write_adapter(release, adapter, given.targets)
        files = [path.stat().st_size for path in release.glob("*.safetensors")]
        print(f"release: {sum(files) / GIGABYTE:.2f} GB in {len(files)} files, the largest "
              f"{max(files) / GIGABYTE:.2f} GB; LoRA on {given.targets}")
        copies, merges, peaks = [], [], []
        for _ in range(given.rounds):
            copies.append(copy(release, output))
            shutil.rmtree(output)
            seconds, peak = run_child(adapter, output)
            shutil.rmtree(output)
            merges.append(seconds)
            peaks.append(peak)
        bare = run_child()[1]
        report(copies, merges, max(peaks), bare, max(files))


def report(copies: list[float], merges: list[float], peak: int, bare: int, largest: int) -> None:
    """Prints the medians, and the ratios to cp and to the memory allowed."""
    ratio = statistics.median(own / plain for own, plain in zip(merges, copies, strict=True))
    allowed = bare + 2 * largest + 5 * 10**8
    print(f"cp: {statistics.median(copies):.2f} s, merge: {statistics.median(merges):.2f} s, {ratio:.2f} times cp "
          "(2.5 are allowed)")
    print(f"peak memory: {peak / GIGABYTE:.2f} GB, {bare / GIGABYTE:.2f} GB of them libraries; "
          f"{allowed / GIGABYTE:.2f} GB are allowed (libraries, two files, 0.5 GB)")


if __name__ == "__main__":
    main()
