"""What training costs: tokens a second, MFU and peak memory, against a plain Trainer; and how right `vlcore plan` is.

    python benchmarks/training.py [--size 2b] [--rounds 2] [--steps 10] [--batch_size 4] [--attn sdpa] [--workers 4]

The model has the shapes of InternVL2-2B (InternViT-300M, InternLM2-1.8B) and random weights; it is written in the
release's layout, 4.4 GB, into a folder that is removed in the end. Every row has one picture of 896 x 448 pixels (two
tiles and the thumbnail, 768 positions) and an answer, all rows have one length, and the first line says how many tokens
that is. LoRA (rank 8 on the language model's attention) and full training run in bf16 with recomputed activations.

Two ways take turns, each run in a process of its own: `vlcore`, this project's training, and `plain`, transformers'
Trainer on the same model, ids and pictures, with the float pixels made by the data set on the CPU, a collator of a few
lines and the model's own loss. Steps are counted from the third on, to the end of the optimizer's step, the device
synchronised; the runs end before anything is written.

MFU is the model's FLOPs over time and peak FLOPs. FLOPs of a row: twice the weights that a position meets, for each
position in its tower, and 4 x positions^2 x width x layers for attention (not halved for its mask). The backward pass
is two forward passes where weights learn, one where they are frozen and gradients pass through, none in a frozen vision
tower; what is recomputed is no part (Chowdhery et al. 2022, arXiv:2204.02311, appendix B). Peaks are the vendors' dense
bf16 figures; `--peak_tflops` gives another. Memory is `torch.cuda.max_memory_allocated`, held against the plan without
what it sets aside for CUDA itself.

`--size tiny` is for trying the script on a CPU, in float32: seconds are then those of the processor, so that other
processes take no part; there is no MFU without --peak_tflops, and no memory, which only CUDA counts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from vlcore.batch import IGNORED, Example
from vlcore.config import LoadConfig, SftConfig
from vlcore.footprint import OVERHEAD, count_parts, find_stack
from vlcore.media import normalise
from vlcore.model import Frontend, build_frontend
from vlcore.placement import count_patches
from vlcore.plan import add_trained, make_plan
from vlcore.resolve import open_checkpoint, resolve_model
from vlcore.train.data import load_data
from vlcore.train.learner import load_learner
from vlcore.train.settings import resolve_settings
from vlcore.train.sft import sft
from vlcore_internvl.tiny import KINDS, describe_model, write_tiny

#: Dense bf16 TFLOPS by what the driver calls a GPU; the vendors' data sheets.
PEAKS = {"H200": 989.4, "H100": 989.4, "A100": 312.0, "L40S": 362.1, "4090": 165.2}
WAYS, METHODS = ("vlcore", "plain"), ("lora", "full")
#: Steps that are not counted: the first makes the optimizer's state, and kernels are chosen.
WARMING = 2
QUESTION, WORD = "What is this?", " a cat"
#: Keys of the release's configuration that differ from those of a tiny model of this width.
VISION = {"intermediate_size": 4096, "num_attention_heads": 16}
LANGUAGE = {"intermediate_size": 8192, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "rms_norm_eps": 1e-5, "rope_scaling": {"type": "dynamic", "factor": 2.0}}


class Measured(Exception):
    """Ends a training whose steps have been timed."""


class Clock(TrainerCallback):
    """Times the ends of steps, on a CPU in the processor's seconds, and ends the training after the last."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
        else:
            self.ends.append(time.process_time())
        if len(self.ends) == self.steps:
            raise Measured


class PlainRows(Dataset[dict[str, torch.Tensor]]):
    """Rows as a plain script has them: ids, labels and float pixels, each made when it is asked for."""

    def __init__(self, frontend: Frontend, rows: Any) -> None:
        self.frontend, self.rows = frontend, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        example: Example = self.frontend.encode(self.rows[index].messages, train=True)
        ids = {"input_ids": torch.tensor(example.ids), "labels": torch.tensor(example.labels)}
        return ids | normalise(self.frontend.media, example.pixels)


def pad(rows: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A plain collator."""
    fill = {"input_ids": 0, "labels": IGNORED}
    batch = {name: torch.nn.utils.rnn.pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
             for name, value in fill.items()}
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return batch | {name: torch.cat([row[name] for row in rows]) for name in rows[0].keys() - fill.keys()}


def train_plain(config: SftConfig) -> None:
    """transformers' Trainer on the model and rows of a configuration."""
    checkpoint = resolve_model(config)
    frontend = build_frontend(checkpoint)
    rows = PlainRows(frontend, load_data(frontend, config).train)
    model = load_learner(checkpoint, config, None).model
    arguments = TrainingArguments(
        output_dir=config.output_dir, max_steps=config.max_steps, per_device_train_batch_size=config.batch_size,
        learning_rate=1e-5, weight_decay=config.weight_decay, adam_beta2=config.adam_beta2, save_strategy="no",
        logging_steps=config.logging_steps, report_to=[], remove_unused_columns=False, bf16=config.dtype == "bf16",
        dataloader_num_workers=config.dataloader_num_workers, use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(), disable_tqdm=True,
    )
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=pad).train()


def measure(way: str, config: SftConfig) -> tuple[float, int]:
    """Seconds a step and bytes of peak memory of a training; 0 bytes without CUDA.

    Args:
        way: one of `WAYS`.
        config: what and how to train; it ends after `max_steps` steps.
    """
    clock = Clock(config.max_steps)
    usual = transformers.trainer.DEFAULT_CALLBACKS
    transformers.trainer.DEFAULT_CALLBACKS = [*usual, clock]
    try:
        (sft if way == "vlcore" else train_plain)(config)
    except Measured:
        pass
    finally:
        transformers.trainer.DEFAULT_CALLBACKS = usual
    ends = clock.ends[WARMING - 1 :]
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return (ends[-1] - ends[0]) / (len(ends) - 1), peak


def write_model(folder: Path, size: str) -> None:
    """A checkpoint with random weights: InternVL2-2B's shapes, or tiny."""
    texts = [QUESTION, WORD * 8]
    write_tiny(folder, "internlm2", texts=texts, width=64, layers=2 if size == "tiny" else 1)
    if size == "tiny":
        return
    config = describe_model(KINDS["internlm2"], 92_553, 448, 2048, 24)
    config["vision_config"] |= VISION
    config["llm_config"] |= LANGUAGE
    (folder / "config.json").write_text(json.dumps(config), "utf8")
    write_random(folder)


def write_random(folder: Path) -> None:
    """model.safetensors with random bf16 weights for a folder's configuration."""
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion

    load = LoadConfig(device_map="meta", dtype="bf16")
    skeleton = open_checkpoint(folder).call("load_model", config=load)
    shapes = {name: tensor.shape for name, tensor in revert_weight_conversion(skeleton, skeleton.state_dict()).items()}
    chunk = torch.randn(1 << 24).mul_(0.02).bfloat16()
    tensors = {name: chunk.repeat(-(-shape.numel() // len(chunk)))[: shape.numel()].reshape(shape).clone()
               for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_rows(folder: Path, rows: int, words: int, size: tuple[int, int]) -> None:
    """train.jsonl: rows of one length, over pictures of coloured squares."""
    chance = random.Random(0)
    for number in range(16):
        picture = Image.frombytes("RGB", (28, 14), chance.randbytes(28 * 14 * 3))
        picture.resize(size, Image.Resampling.NEAREST).save(folder / f"{number}.jpg", quality=90)
    lines = [{"query": f"<image>{QUESTION}", "response": WORD.strip() + WORD * (words - 1),
              "images": [f"{number % 16}.jpg"]} for number in range(rows)]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")


def make_config(folder: Path, method: str, given: argparse.Namespace) -> SftConfig:
    """The training of a method, its open settings filled in."""
    return resolve_settings(SftConfig(
        model=str(folder / "model"), dataset=(str(folder / "train.jsonl"),), output_dir=str(folder / "output"),
        sft_type=method, batch_size=given.batch_size, gradient_accumulation_steps=1, max_steps=given.steps,
        dataset_test_ratio=0.0, dtype="fp32" if given.size == "tiny" else "bf16", attn=given.attn, max_length=0,
        dataloader_num_workers=given.workers, report_to=("none",), logging_steps=10**6, save_steps=10**6,
        eval_steps=10**6, learning_rate=1e-5))


def count_flops(config: SftConfig, length: int) -> float:
    """FLOPs of a row, forward and backward, nothing recomputed."""
    checkpoint = resolve_model(config)
    bare = checkpoint.call("load_model", config=LoadConfig(device_map="meta", dtype="bf16"))
    model = add_trained(checkpoint, bare, config)
    parts, learns = checkpoint.parts, config.sft_type == "full"
    sizes = {part.name: part.parameters for part in count_parts(model, parts)}
    sizes["language"] -= model.get_input_embeddings().weight.numel()  # looked up, not multiplied
    tiles = 1 if config.dtype == "fp32" else 3
    patches = count_patches(model)
    language, vision = find_stack(model, parts, "language"), find_stack(model, parts, "vision")
    attention = 4 * language.hidden * language.blocks * length**2
    seen = tiles * (2 * sizes["vision"] * patches + 4 * vision.hidden * vision.blocks * patches**2)
    seen += 2 * sizes["projector"] * tiles * (patches // 4)
    if learns:
        return 3 * (2 * sizes["language"] * length + attention + seen)
    return 2 * 2 * sizes["language"] * length + 3 * attention + seen


def find_peak(given: float) -> float:
    """Peak TFLOPS of the GPU in bf16; 0 when it is not known."""
    if given or not torch.cuda.is_available():
        return given
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), 0.0)


def run_child(way: str, method: str, folder: Path) -> tuple[float, int]:
    """`measure` in a process of its own."""
    words = [sys.executable, __file__, *sys.argv[1:], "--task", way, method, str(folder)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


def report(method: str, config: SftConfig, runs: Mapping[str, list[tuple[float, int]]], peak_tflops: float) -> None:
    """Prints the figures of a method: medians of the rounds."""
    plan = make_plan(config)
    length = plan.lengths[0]
    assert plan.lengths[0] == plan.lengths[2], "rows are of one length"
    work = count_flops(config, length) * config.batch_size
    print(f"{method}: rows of {length} tokens, {config.batch_size} a step, {work / 1e12:.3g} TFLOP a step")
    for way in WAYS:
        seconds = statistics.median(second for second, _ in runs[way])
        used = f"{work / seconds / peak_tflops / 1e12:.1%}" if peak_tflops else "not known"
        peak = max(peak for _, peak in runs[way])
        memory = f"{peak / 1e9:.2f} GB" if peak else "not measured"
        print(f"  {way:6}  {config.batch_size * length / seconds:,.0f} tokens a second, MFU {used}, peak {memory}")
    ratios = [plain / own for (own, _), (plain, _) in zip(runs["vlcore"], runs["plain"], strict=True)]
    print(f"  vlcore over plain: {statistics.median(ratios):.2f} (rounds: {', '.join(f'{r:.2f}' for r in ratios)})")
    if peak := max(peak for _, peak in runs["vlcore"]):
        planned = plan.memory.total - OVERHEAD
        print(f"  plan: {planned / 1e9:.2f} GB, {(planned - peak) / peak:+.1%} of what was measured")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("2b", "tiny"), default="2b" if torch.cuda.is_available() else "tiny")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--words", type=int, default=100, help="pairs of words in an answer")
    parser.add_argument("--attn", choices=("sdpa", "flash_attention_2", "eager"), default="sdpa")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare rows")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="of the GPU in bf16, when it is not known")
    parser.add_argument("--folder", default=None, help="where to write; the model takes 4.4 GB")
    parser.add_argument("--task", nargs=3, metavar=("WAY", "METHOD", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = read_arguments()
    if given.task:
        way, method, folder = given.task
        print(json.dumps(measure(way, make_config(Path(folder), method, given))))
        return
    if given.size == "2b" and not torch.cuda.is_available():
        sys.exit("--size 2b needs a CUDA GPU; give --size tiny to try the script on this machine")
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        folder = Path(scratch)
        write_model(folder / "model", given.size)
        size = (56, 56) if given.size == "tiny" else (896, 448)
        write_rows(folder, given.batch_size * given.steps, given.words, size)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        print(f"{given.size} on {device}, {given.attn}: {given.rounds} rounds of {given.steps} steps, "
              f"{WARMING} of them not counted")
        for method in METHODS:
            runs: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
            for _ in range(given.rounds):
                for way in WAYS:
                    runs[way].append(run_child(way, method, folder))
            report(method, make_config(folder, method, given), runs, find_peak(given.peak_tflops))


if __name__ == "__main__":
    main()
