"""Proof of an exported model: a fresh process reads it and computes what the original does, on real rows.

Both models answer greedily. Their logits are compared along the original's prompt and answer, which takes them
over the same tokens even where the answers part.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.batch import Example, trace
from vlcore.config import GenerateConfig, LoadConfig, read_config, write_config
from vlcore.errors import CheckpointError, VlcoreError
from vlcore.generate import run_batch
from vlcore.messages import Message, read_message, user, write_message
from vlcore.model import Frontend, VLModel, build_frontend, open_model

if TYPE_CHECKING:
    import torch

#: Name of the file with the figures.
PROOF_FILE = "proof.json"
#: Rows that are compared, and the longest answer in tokens.
ROWS, TOKENS = 3, 32
#: Positions before the answer whose logits are compared.
CONTEXT = 32
#: Largest difference of a logit over the largest logit, by the coarsest dtype that weights or sums are rounded to; on
#: average logits may differ by a fifth of it. The first three round by 2^-24, 2^-11 and 2^-8 of a number, and some tens
#: of layers let that grow. The last two are measured on models of random weights, which suffer most; on average the
#: logits of two unrelated models differ by a quarter of the largest.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2, "int8": 0.15, "int4": 1.0}


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under test.

    Attributes:
        load: how it is loaded.
        adapter: an adapter on it.
        native: a folder in transformers' own layout, whose weights are taken instead.
    """

    load: LoadConfig
    adapter: str = ""
    native: str = ""

    def open(self) -> VLModel:
        """The model."""
        if not self.native:
            return open_model(self.load, self.adapter)
        from transformers import AutoModelForImageTextToText, GenerationConfig

        from vlcore.resolve import resolve_model
        from vlcore.weights import choose_device, choose_dtype

        frontend = build_frontend(resolve_model(self.load), self.load.family_options)
        arguments: dict[str, Any] = choose_device(self.load.device_map)
        arguments["dtype"] = choose_dtype(self.load.dtype, {})
        module = AutoModelForImageTextToText.from_pretrained(self.native, local_files_only=True, **arguments).eval()
        module.generation_config = GenerationConfig()
        return VLModel(frontend, module)


@dataclass(frozen=True, slots=True)
class Trace:
    """What a model makes of a row: its answer, and logits (positions, vocabulary) along a given answer."""

    ids: tuple[int, ...]
    text: str
    logits: torch.Tensor


def trace_rows(model: VLModel, rows: Sequence[Sequence[Message]], given: Sequence[Sequence[int]] = ()) -> list[Trace]:
    """Runs rows greedily, one by one.

    Args:
        model: the model.
        rows: conversations that end with the user.
        given: the answers along which logits are taken; the model's own when left out.
    """
    settings = GenerateConfig(max_new_tokens=TOKENS, temperature=0, repetition_penalty=1.0)
    traces = []
    for number, messages in enumerate(rows):
        example = model.encode(messages)
        ids = run_batch(model, [example], settings)[0]
        along = tuple(given[number]) if given else ids
        logits, _ = model.compute_logits(extend(model.frontend, example, along))
        text = model.frontend.tokenizer.decode(ids)
        traces.append(Trace(tuple(ids), text, logits[-len(along) - CONTEXT:].float().cpu()))
    return traces


def extend(frontend: Frontend, example: Example, ids: Sequence[int]) -> Example:
    """An example with an answer behind it that is not trained on.

    A model may say the token of image positions, which no picture is there for; padding takes its place.
    """
    layout, place = example.layout, frontend.media.image_token_id
    said = [frontend.tokenizer.pad_id if token == place else token for token in ids]
    longer = replace(layout, ids=(*layout.ids, *said), labels=(*layout.labels, *[-100] * len(said)))
    return replace(example, layout=longer, tracks=trace(longer, frontend.media))


def trace_apart(subject: Subject, rows: Sequence[Sequence[Message]], given: Sequence[Sequence[int]]) -> list[Trace]:
    """As `trace_rows`, by a process of its own, which has nothing but the files.

    Raises:
        CheckpointError: when it cannot load or run the model.
    """
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asked = {
            "load": write_config(subject.load), "adapter": subject.adapter, "native": subject.native,
            "rows": [[write_message(message) for message in messages] for messages in rows],
            "given": [list(ids) for ids in given],
        }
        (folder / "asked.json").write_text(json.dumps(asked), encoding="utf8")
        command = [sys.executable, "-m", "vlcore.export.proof", str(folder)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise CheckpointError("the exported model", f"a fresh process cannot run it ({last})", "see the line above")
        logits = load_file(folder / "logits.safetensors")
        told = json.loads((folder / "told.json").read_text(encoding="utf8"))
    return [Trace(tuple(row["ids"]), row["text"], logits[str(number)]) for number, row in enumerate(told)]


def answer_apart(folder: Path) -> None:
    """What the process of `trace_apart` does: reads `asked.json`, writes `told.json` and the logits."""
    from safetensors.torch import save_file

    asked = json.loads((folder / "asked.json").read_text(encoding="utf8"))
    subject = Subject(read_config(LoadConfig, asked["load"]), asked["adapter"], asked["native"])
    rows = [[read_message(message) for message in messages] for messages in asked["rows"]]
    traces = trace_rows(subject.open(), rows, asked["given"])
    logits = {str(number): trace.logits.contiguous() for number, trace in enumerate(traces)}
    save_file(logits, folder / "logits.safetensors")
    told = [{"ids": trace.ids, "text": trace.text} for trace in traces]
    (folder / "told.json").write_text(json.dumps(told), encoding="utf8")


def find_questions(folder: Path) -> tuple[str, list[tuple[Message, ...]]]:
    """The first validation rows of a training, without their answers; one made-up question where there are none.

    Returns:
        Where the rows are from, in words, and the rows.
    """
    from PIL import Image

    from vlcore.checkpoint import VALIDATION_FILE

    path = folder / VALIDATION_FILE
    rows = []
    for line in path.read_text(encoding="utf8").splitlines()[:ROWS] if path.is_file() else ():
        messages = tuple(read_message(message) for message in json.loads(line)["messages"])
        rows.append(messages[:-1] if messages[-1].role == "assistant" else messages)
    if rows:
        return "validation rows of the training", rows
    written = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(written, "png")
    return "a made-up question about a picture", [(user("What is in the picture?", [written.getvalue()]),)]


def compare_traces(original: Trace, exported: Trace, tolerance: float) -> dict[str, Any]:
    """The figures of one row, as the file with the proof holds them.

    The answers may part only at a token where the original itself can hardly decide: where the two tokens are
    closer to each other than both may move.
    """
    gaps = (original.logits - exported.logits).abs()
    largest = float(original.logits.abs().max())
    figures: dict[str, Any] = {
        "max_difference": float(gaps.max()), "mean_difference": float(gaps.mean()), "largest_logit": largest,
        "tokens": len(original.ids), "equal": original.ids == exported.ids, "answer": original.text,
    }
    passed = max(figures["max_difference"], 5 * figures["mean_difference"]) <= tolerance * largest
    if not figures["equal"]:
        pairs = list(zip(original.ids, exported.ids, strict=False))
        at = next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs) - 1)
        logits = original.logits[at - len(original.ids) - 1]
        margin = float(logits[pairs[at][0]] - logits[pairs[at][1]])
        figures |= {"exported_answer": exported.text, "parts_at_token": at, "margin_there": margin}
        passed = passed and margin <= 2 * tolerance * largest
    return {"passed": passed, **figures}


def prove(original: Subject, exported: Subject, folder: Path, rounded: str) -> dict[str, Any]:
    """Holds an exported model against what it was made of.

    Args:
        original: the model as it was.
        exported: the model as it was written.
        folder: of the training, for its validation rows.
        rounded: the coarsest dtype that values of either were rounded to, a key of `TOLERANCES`.

    Returns:
        The figures; `passed` among them.
    """
    import gc

    source, rows = find_questions(folder)
    model = original.open()
    dtype = str(model.module.dtype).removeprefix("torch.")
    expected = trace_rows(model, rows)
    effect = measure_adapter(model, rows, expected) if original.adapter else None
    del model  # the other process needs the memory
    gc.collect()
    found = trace_apart(exported, rows, [trace.ids for trace in expected])
    worst = max((rounded, dtype), key=lambda name: TOLERANCES[name])
    compared = [compare_traces(*pair, TOLERANCES[worst]) for pair in zip(expected, found, strict=True)]
    return {
        "passed": all(row["passed"] for row in compared),
        "source": source, "dtype": dtype, "rounded_to": worst, "tolerance": TOLERANCES[worst],
        "max_difference": max(row["max_difference"] for row in compared),
        "mean_difference": sum(row["mean_difference"] for row in compared) / len(compared),
        "largest_logit": max(row["largest_logit"] for row in compared),
        "mean_effect_of_adapter": effect,
        "equal_answers": sum(row["equal"] for row in compared),
        "rows": compared, "versions": list_versions(),
    }


def measure_adapter(model: VLModel, rows: Sequence[Sequence[Message]], traces: Sequence[Trace]) -> float:
    """By how much an adapter moves the logits, on average: what merging must not lose."""
    module: Any = model.module
    with module.disable_adapter():
        plain = [model.compute_logits(extend(model.frontend, model.encode(row), trace.ids))[0]
                 for row, trace in zip(rows, traces, strict=True)]
    moved = [(trace.logits - logits[-len(trace.logits):].float().cpu()).abs().mean()
             for trace, logits in zip(traces, plain, strict=True)]
    return float(sum(moved)) / len(moved)


def describe_proof(proof: Mapping[str, Any]) -> str:
    """The figures in one line."""
    effect = proof["mean_effect_of_adapter"]
    beside = "" if effect is None else f" (the adapter moves them by {effect:.2g})"
    share = max(row["max_difference"] / row["largest_logit"] for row in proof["rows"])
    return (
        f"{proof['equal_answers']} of {len(proof['rows'])} answers equal, logits differ by "
        f"{proof['max_difference']:.2g} at most and {proof['mean_difference']:.2g} on average{beside}, "
        f"{share:.2%} of the largest ({proof['tolerance']:.2%} allowed for {proof['rounded_to']}), "
        f"computed in {proof['dtype']} on {proof['source']}"
    )


def list_versions() -> dict[str, str]:
    """What computed the figures."""
    from importlib.metadata import version

    return {name: version(name) for name in ("vlcore", "torch", "transformers", "peft", "safetensors")}


if __name__ == "__main__":
    try:
        answer_apart(Path(sys.argv[1]))
    except VlcoreError as error:
        sys.exit(str(error))
