"""Parity: a model's every stage held against what its release computes, recorded as data.

The format: below any folder, `checkpoint/` (a release, usually tiny) with `cases/` beside it; a case is
`NAME.json` (what goes in and what must come out) with `NAME.safetensors` (its tensors). Image paths in a case
start from the nearest folder above it that holds `images/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.batch import collate
from vlcore.config import GenerateConfig
from vlcore.errors import CheckpointError, UsageError, VlcoreError
from vlcore.generate import make_reply, run_batch
from vlcore.media import normalise
from vlcore.messages import Message, make_message, read_message

if TYPE_CHECKING:
    import torch

    from vlcore.model import VLModel

#: Largest difference of each value in float32: absolute for pixels, else over the largest recorded value.
TOLERANCES = {"pixel_values": 1e-5, "image_features": 1e-4, "logits_last": 1e-4, "logits_norm": 1e-4, "loss": 1e-5}
#: Options of a case that are not options of the family.
CASE_OPTIONS = ("max_new_tokens", "system_message")


@dataclass(frozen=True, slots=True)
class Case:
    """A recorded case: its checkpoint, its name, its JSON, and where its image paths start."""

    checkpoint: Path
    name: str
    data: Mapping[str, Any]
    root: Path

    @property
    def train(self) -> bool:
        """Whether it records a training step."""
        return bool(self.data["kind"] == "train")

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its conversation, led by the system text of its options if it has one."""
        read = tuple(read_message(item, self.root) for item in self.data["messages"])
        system = self.data.get("options", {}).get("system_message")
        return (make_message("system", system), *read) if system and read[0].role != "system" else read

    @property
    def options(self) -> dict[str, Any]:
        """Its options of the family."""
        return {k: v for k, v in self.data.get("options", {}).items() if k not in CASE_OPTIONS}

    @property
    def settings(self) -> GenerateConfig:
        """Greedy, no longer than what was recorded."""
        recorded = self.data.get("options", {}).get("max_new_tokens", self.data.get("max_new_tokens"))
        return GenerateConfig(max_new_tokens=recorded or len(self.data["generated_ids"]), temperature=0,
                              repetition_penalty=1.0)

    def load_tensors(self) -> dict[str, torch.Tensor]:
        """Its recorded tensors by name."""
        from safetensors.torch import load_file

        return load_file(self.checkpoint.parent / "cases" / f"{self.name}.safetensors")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case went.

    Attributes:
        model: the folder above `checkpoint/`.
        case: the case's name.
        differences: each compared value with its worst difference in units of its tolerance; 0 or 1 and more
            for values that must be equal.
        faults: what differs, in words.
    """

    model: str
    case: str
    differences: Mapping[str, float] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every recorded value was met."""
        return not self.faults

    def describe(self) -> str:
        """One line: the worst of the measured differences, then what failed."""
        measured = {name: value for name, value in self.differences.items() if name in TOLERANCES}
        worst = max(measured, key=lambda name: measured[name], default="")
        shown = f"worst {worst} {measured[worst]:.2g} of tolerance" if worst else "no tensors"
        line = f"{'ok  ' if self.passed else 'FAIL'} {self.model}/{self.case}: {len(self.differences)} values, {shown}"
        return line if self.passed else f"{line}; {'; '.join(self.faults)}"


def find_cases(folders: Iterable[Path]) -> list[Case]:
    """All cases below the folders, by checkpoint.

    Raises:
        UsageError: when a folder holds none.
    """
    cases = []
    for folder in folders:
        found = [p for p in sorted(folder.rglob("cases/*.json")) if (p.parent.parent / "checkpoint").is_dir()]
        if not found:
            why = "no checkpoint/ with cases/ lies below it"
            raise UsageError(f"folder {folder}", why, "give a folder of parity data")
        cases += [read_case(path) for path in found]
    return cases


def read_case(path: Path) -> Case:
    """A case from its JSON file."""
    try:
        data = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise CheckpointError(f"case {path}", f"it is not JSON ({error})", "record it again") from error
    roots = [parent for parent in path.resolve().parents if (parent / "images").is_dir()]
    return Case(path.parent.parent / "checkpoint", path.stem, data, roots[0] if roots else path.resolve().parent)


def run_cases(cases: Iterable[Case]) -> Iterator[Outcome]:
    """Runs cases through the public API, loading each checkpoint once, in float32 on the CPU."""
    from vlcore.model import load_model

    for folder, group in groupby(cases, key=lambda case: case.checkpoint):
        model = load_model(folder, dtype="fp32", device_map="cpu")
        for case in group:
            try:
                differences, faults = compare_case(model, case)
            except VlcoreError as error:
                differences, faults = {}, [str(error)]
            yield Outcome(folder.parent.name, case.name, differences, tuple(faults))


def compare_case(model: VLModel, case: Case) -> tuple[dict[str, float], list[str]]:
    """Every recorded value against the model's: differences in units of tolerance, and faults in words."""
    tensors = case.load_tensors()
    expected = dict(case.data) | tensors
    computed = compute_case(model, case)
    if "batch" in expected and not case.train:
        expected |= {f"batch.{k}": v for k, v in expected["batch"].items()}
        computed |= compute_batch(model, case)
    expected["generated_text"] = cut_mark(model, expected)
    expected["input_ids"] = expected.get("input_ids_neutral", expected["input_ids"])
    if "generated_ids" in expected:
        expected["generated_ids"] = cut_filler(model, expected["generated_ids"])
    expected |= widen_images(expected)
    shared = {name: (expected[name], value) for name, value in computed.items() if expected.get(name) is not None}
    differences = {name: measure(name, *pair) for name, pair in shared.items()}
    faults = [explain(name, *shared[name]) for name, value in differences.items() if not value <= 1]
    faults += [f"{name} is recorded, and vlcore computes none" for name in tensors if name not in computed]
    return differences, faults


def compute_case(model: VLModel, case: Case) -> dict[str, Any]:
    """What the model makes of a case, by the names of the format."""
    example = model.encode(case.messages, train=case.train, loss_on="release", **case.options)
    logits, loss = model.compute_logits(example, train=case.train)
    values: dict[str, Any] = {
        "prompt": example.layout.prompt.replace(f"{case.root}/", ""),
        "input_ids": list(example.ids),
        "logits_last": logits[-8:],
        "logits_norm": logits.norm(dim=-1),
        "num_patches_list": [sum(plan.tiles) for plan in example.layout.plans],
        **normalise(model.frontend.media, example.pixels),
    }
    if example.pixels:
        values["image_features"] = model.compute_features(example)
    if case.train:
        values |= {"labels": list(example.labels), "loss": loss}
        if "loss_eval_mode" in case.data:
            values["loss_eval_mode"] = model.compute_logits(example)[1]
        return values
    ids = run_batch(model, [example], case.settings)[0]
    text = make_reply(model, case.messages, example, ids).text
    return values | {"generated_ids": list(ids), "generated_text": text}


def compute_batch(model: VLModel, case: Case) -> dict[str, Any]:
    """The padded batch that a case was also run in, by the names of its `batch` entry."""
    recorded = case.data["batch"]
    names = [case.checkpoint.parent / "cases" / f"{name}.json" for name in recorded["cases"]]
    cases = [read_case(path) for path in names]
    examples = [model.encode(c.messages, **c.options) for c in cases]
    batch = collate(examples, recorded.get("pad_token_id", model.frontend.tokenizer.pad_id), side="left")
    rows = slice(None) if "row" not in recorded else recorded["row"]
    values: dict[str, Any] = {
        "batch.input_ids": batch["input_ids"][rows].tolist(),
        "batch.attention_mask": batch["attention_mask"][rows].tolist(),
    }
    if "generated_ids" in recorded:
        ids = run_batch(model, examples, case.settings)
        texts = [make_reply(model, c.messages, e, i).text for c, e, i in zip(cases, examples, ids, strict=True)]
        values |= {"batch.generated_ids": [list(row) for row in ids], "batch.generated_text": texts}
    return values


def widen_images(expected: Mapping[str, Any]) -> dict[str, list[int]]:
    """Recorded ids and labels with a position for every embedding, where a release writes one id a picture."""
    ids, width = expected["input_ids"], expected.get("tokens_per_image", 1)
    if expected.get("sequence_length", len(ids)) == len(ids):
        return {}
    widths = [width if token == expected["image_token_id"] else 1 for token in ids]
    rows = {name: expected[name] for name in ("input_ids", "labels") if expected.get(name) is not None}
    return {name: [v for v, n in zip(row, widths, strict=True) for _ in range(n)] for name, row in rows.items()}


def cut_filler(model: VLModel, ids: Sequence[int]) -> list[int]:
    """Recorded ids up to the first stop token; what some releases force or pad behind it is no answer."""
    stops = {model.frontend.tokenizer.token_id(name) for name in model.frontend.template.stop.tokens}
    ends = [at for at, token in enumerate(ids) if token in stops]
    return list(ids[: ends[0] + 1] if ends else ids)


def cut_mark(model: VLModel, expected: Mapping[str, Any]) -> str | None:
    """A case's recorded answer without the name of the token that stopped it, which some releases show."""
    text: str | None = expected.get("generated_text_complete", expected.get("generated_text"))
    for name in model.frontend.template.stop.tokens if text else ():
        if expected["generated_ids"][-1] == model.frontend.tokenizer.token_id(name):
            return str(text).removesuffix(name)
    return text


def measure(name: str, expected: Any, computed: Any) -> float:
    """The difference of a value in units of its tolerance; infinite when shapes or exact values differ.

    Releases and transformers' classes group pictures, tiles and tokens differently: of tensors the order counts and the
    last axis, not how the axes before it are grouped.
    """
    import torch

    tolerance = TOLERANCES.get(name.removesuffix("_eval_mode"))
    if tolerance is None:
        if not isinstance(expected, torch.Tensor):
            return 0.0 if expected == computed else float("inf")
        same = have_same_order(expected, computed) and torch.equal(expected.flatten(), computed.cpu().flatten())
        return 0.0 if same else float("inf")
    want, have = torch.as_tensor(expected).float(), torch.as_tensor(computed).float().cpu()
    if not have_same_order(want, have):
        return float("inf")
    worst = float((want.flatten() - have.flatten()).abs().max()) if want.numel() else 0.0
    scale = 1.0 if name == "pixel_values" else float(want.abs().max()) or 1.0
    return worst / scale / tolerance


def have_same_order(expected: torch.Tensor, computed: torch.Tensor) -> bool:
    """Whether two tensors have as many values and rows of one length, however the rows are grouped."""
    return expected.numel() == computed.numel() and expected.shape[-1:] == computed.shape[-1:]


def explain(name: str, expected: Any, computed: Any) -> str:
    """What differs, in a few words."""
    if hasattr(expected, "shape") and not have_same_order(expected, computed):
        return f"{name} has shape {tuple(computed.shape)}, recorded {tuple(expected.shape)}"
    if name in TOLERANCES:
        return f"{name} differs by {measure(name, expected, computed):.3g} times its tolerance"
    if isinstance(expected, list) and isinstance(computed, list):
        pairs = list(zip(expected, computed, strict=False))
        at = next((i for i, (want, have) in enumerate(pairs) if want != have), len(pairs))
        found = f"{computed[at : at + 6]}, recorded {expected[at : at + 6]}"
        return f"{name} differs at {at}: {found} (lengths {len(computed)}, {len(expected)})"
    return f"{name} is {computed!r}, recorded {expected!r}"
