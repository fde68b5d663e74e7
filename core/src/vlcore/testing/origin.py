"""Before a model is loaded: importing a plugin, its records, the tiny checkpoint that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlcore.errors import show
from vlcore.testing.outcome import Fault, NotApplicable

if TYPE_CHECKING:
    from vlcore.testing.subject import Subject

#: Packages that cost every command time, also those that use no model; a plugin imports them inside functions.
HEAVY = (
    "torch", "transformers", "tokenizers", "sentencepiece", "safetensors", "peft", "accelerate", "datasets", "numpy",
    "scipy", "pandas", "PIL", "cv2", "av", "torchvision", "matplotlib", "requests", "httpx", "tiktoken",
    "huggingface_hub",
)
#: Bytes that a tiny checkpoint may have.
LARGEST = 100_000_000
#: What Python reports (`sys.addaudithook`) of whatever leaves the process.
OUTSIDE = (
    "socket.", "urllib.", "http.client.", "ftplib.", "smtplib.", "subprocess.", "os.system", "os.exec", "os.fork",
    "os.posix_spawn", "os.spawn", "os.startfile", "webbrowser.",
)
#: Imports a plugin as discovery does and asks it for its records; prints what came in and what went out.
PROBE = """
import importlib, json, sys
import vlcore.hookspecs, vlcore.family
outside, (module, marks) = [], json.loads(sys.argv[1])
sys.addaudithook(lambda event, given: outside.append(event) if event.startswith(tuple(marks)) else None)
before = set(sys.modules)
found = importlib.import_module(module)
for name in ("register_models", "register_datasets", "register_metrics"):
    list(getattr(found, name, tuple)())
print(json.dumps([sorted(set(sys.modules) - before), sorted(set(outside))]))
"""
#: Configurations that no plugin owns; some are written as nobody expects.
FOREIGN: tuple[Mapping[str, Any], ...] = (
    {"model_type": "bert", "architectures": ["BertModel"]}, {}, {"model_type": None, "architectures": None},
    {"model_type": 7, "architectures": "BertModel", "llm_config": None, "text_config": [], "visual": 1},
)


def check_import(subject: Subject) -> None:
    """Importing the plugin and asking for its records imports nothing heavy and reaches nothing outside."""
    module = subject.plugin.origin.partition(":")[0]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", PROBE, json.dumps([module, OUTSIDE])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise Fault(f"import {module}", f"it fails ({last})", "make the module importable by itself")
    imported, outside = json.loads(done.stdout.splitlines()[-1])
    heavy = sorted({name for name in HEAVY for each in imported if each == name})
    if heavy:
        raise Fault(f"import {module}", f"it imports {', '.join(heavy)}, which every vlcore command would wait for",
                    "import them inside the hooks that need them, or under TYPE_CHECKING")
    if outside:
        raise Fault(f"import {module}", f"it reaches outside of its process ({', '.join(outside)})",
                    "open no connection and start no program when a plugin is imported or asked for its records")


def check_records(subject: Subject) -> None:
    """Names are sound and said once; the family recognises its own checkpoints and no others."""
    check_names(subject)
    family, checkpoint = subject.family, subject.checkpoint
    if (checkpoint.family.name, checkpoint.owner) != (family.name, subject.plugin.name):
        raise Fault("the tiny checkpoint", f"it is recognised by family {checkpoint.family.name} of {checkpoint.owner}",
                    "let recognise of this family accept it, and no other")
    own = {key: value for key, value in checkpoint.config.items() if key != "architectures"}
    for config in (*FOREIGN, *([{**own, "model_type": "of_somebody_else"}] if own.get("model_type") else ())):
        check_foreign("recognise", family.owns, config)
        check_foreign("reject", family.reject, config)


def check_names(subject: Subject) -> None:
    """What the family and its models are called, and the names of its settings.

    Raises:
        Fault: naming the record and its field.
    """
    from transformers import GenerationConfig

    family = subject.family
    names = Counter(name.lower() for model in family.models for name in (model.name, *model.hub_ids))
    names.update(name for model in family.models for name in {model.name.lower()} & set(map(str.lower, model.hub_ids)))
    for name, count in names.items():
        if count > 1:
            raise Fault(f"model {name}", "several records answer to it", "give each model a name of its own")
    for model in family.models:
        if not model.name or any(sign.isspace() or sign == "/" for sign in model.name):
            raise Fault(f"model {model.name!r}", "a name is one word without a slash", "correct ModelRecord.name")
        for hub_id in filter(None, model.hub_ids):
            if hub_id.count("/") != 1:
                raise Fault(f"model {model.name}", f"{hub_id} is no hub id", "write it as OWNER/NAME")
    if "<image>" not in family.tags:
        raise Fault("tags", f"<image> is not among {', '.join(family.tags)}", "add it to ModelFamily.tags")
    known = vars(GenerationConfig())
    for field in ("generation", "sampling", "question"):
        for name in getattr(family, field):
            if name not in known:
                raise Fault(f"{field} of the family", f"{name} is no setting of generation", "use transformers' names")


def check_foreign(name: str, ask: Callable[..., object], config: Mapping[str, Any]) -> None:
    """Holds what the family says of a checkpoint that is not its own to nothing.

    Raises:
        Fault: when it claims it, says why it rejects it, or stumbles.
    """
    given = f"{name} of a foreign config.json, {show(dict(config))}"
    try:
        answer = ask(config, Path("nowhere"))
    except Exception as error:
        raise Fault(given, f"it raises {type(error).__name__}: {error}",
                    "expect nothing of a configuration before its model_type is known") from error
    if answer:
        raise Fault(given, f"it answers {answer!r}",
                    "answer for this family's own model_type alone")


def check_tiny(subject: Subject) -> None:
    """The plugin writes a tiny checkpoint: the same for the same seed, and without moving other random numbers."""
    import torch

    if subject.given:
        raise NotApplicable("another checkpoint was given")
    before = torch.random.get_rng_state()
    folders = (subject.folder, subject.write_tiny("again"), subject.write_tiny("other", seed=1))
    if not torch.equal(torch.random.get_rng_state(), before):
        raise Fault("write_tiny", "it moves torch's random numbers", "draw within torch.random.fork_rng()")
    first, again, other = ({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                           for folder in folders)
    different = sorted(str(path) for path in first.keys() | again.keys() if first.get(path) != again.get(path))
    if different:
        raise Fault("write_tiny", f"two calls with one seed write different files ({', '.join(different)})",
                    "take all random numbers from the seed, and write files in an order of their own")
    if first == other:
        raise Fault("write_tiny", "two seeds write the same weights", "take the random weights from the seed")
    size = sum(map(len, first.values()))
    if size > LARGEST:
        raise Fault("write_tiny", f"it writes {size:,} bytes", "make it tiny: a few layers, some tens wide")
