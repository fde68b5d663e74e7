"""Records what a reference computes as parity data, where the reference runs.

A released model often lives in an environment of its own, with an older transformers. This file stands alone: it needs
Python 3.9, numpy and safetensors, and nothing else of vlcore. `vlcore parity record --script` prints it; there,

    python recorder.py reference.py:answer --cases cases.jsonl --checkpoint FOLDER --out FOLDER

does what `vlcore parity record` does. `vlcore parity FOLDER` then holds a port against what was recorded.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

#: What a line of the cases file may say.
GIVEN = ("case", "kind", "messages", "options", "notes")
#: Kind of a part of a message -> the key of its value; which frames a release takes of a video is its own.
PARTS = {"text": "text", "image": "image", "video": "frames"}
#: What a reference must return for a case of each kind.
REQUIRED = {"generate": ("input_ids", "generated_ids", "generated_text"), "train": ("input_ids", "labels", "loss")}
#: Rows of ids that a reference may return, and single values.
IDS = ("input_ids", "input_ids_neutral", "labels", "generated_ids", "num_patches_list")
NUMBERS = ("loss", "loss_eval_mode", "image_token_id", "tokens_per_image", "sequence_length", "max_new_tokens")
TEXTS = ("prompt", "generated_text", "generated_text_complete", "notes")
#: Tensors that a reference may return. `logits` of all positions become `logits_last` and `logits_norm`.
TENSORS = ("pixel_values", "image_features", "logits", "logits_last", "logits_norm")
#: How many of the last positions are kept in full.
LAST = 8
#: The label of a position without loss.
IGNORED = -100
#: A case as the reference is given it, and what it returns.
Case = Mapping[str, Any]
Reference = Callable[[Case], Mapping[str, Any]]


class RecordError(ValueError):
    """Something that cannot be recorded: what was given, why not, what to do."""

    def __init__(self, given: str, why: str, do: str) -> None:
        super().__init__(f"{given}: {why}; {do}")
        self.given, self.why, self.do = given, why, do


def record(
    reference: Reference, cases: Iterable[Case], out: Path | str, checkpoint: Path | str = "", extra: Iterable[str] = ()
) -> Iterator[str]:
    """Runs cases through a reference and writes what it computes; yields the name of each case that is written.

    Args:
        reference: is given `{"case", "kind", "messages", "options", "checkpoint"}` with absolute paths of pictures, and
            returns values by the names of the format, computed in float32 on the CPU, greedily.
        cases: what goes in, as `read_cases` reads it.
        out: the folder of the data: `checkpoint/`, `cases/`, `images/`.
        checkpoint: copied to `out/checkpoint`; may be left out when that is there.
        extra: names of further tensors that the model is fed, such as `image_grid_thw`.

    Raises:
        RecordError: for a case that is there already, or values that cannot be right.
    """
    folder = Path(out).resolve()
    copied = place_checkpoint(folder, checkpoint)
    for case in cases:
        path = folder / "cases" / f"{case['case']}.json"
        if path.exists():
            raise RecordError(str(path), "it is recorded already", "remove it, or give the case another name")
        placed = place_pictures(case, folder)
        asked = {**placed, "messages": root_pictures(placed["messages"], folder), "checkpoint": str(copied)}
        values = ask(reference, {name: value for name, value in asked.items() if name != "notes"})
        plain, tensors = check_values(case, values, tuple(extra))
        if "prompt" in plain:
            plain["prompt"] = plain["prompt"].replace(f"{folder}/", "")
        write_case(path, {**placed, **plain}, tensors)
        yield str(case["case"])


def ask(reference: Reference, case: Case) -> Mapping[str, Any]:
    """What a reference returns for a case."""
    place = f"case {case['case']}"
    try:
        values = reference(case)
    except Exception as error:
        said = f"the reference raised {type(error).__name__}: {error}"
        raise RecordError(place, said, "mend the reference; the cases before it are recorded") from error
    if not isinstance(values, Mapping):
        raise RecordError(place, f"the reference returned {type(values).__name__}", "return a dict")
    return values


def read_cases(path: Path | str) -> list[dict[str, Any]]:
    """Cases from a JSON-lines file; pictures of a line start from the file's folder.

    Raises:
        RecordError: with file and line.
    """
    file, cases, names = Path(path), [], set()
    for number, line in enumerate(file.read_text(encoding="utf8").splitlines(), 1):
        if not line.strip():
            continue
        case = read_case(line, f"{file}:{number}", file.resolve().parent)
        if case["case"] in names:
            raise RecordError(f"{file}:{number}: case", f"{case['case']} is there twice", "give it another name")
        names.add(case["case"])
        cases.append(case)
    if not cases:
        raise RecordError(str(file), "it holds no case", "write one JSON object a line")
    return cases


def read_case(line: str, place: str, root: Path) -> dict[str, Any]:
    """A case from its line; what it leaves out is filled in, paths are made absolute."""
    try:
        case = json.loads(line)
    except ValueError as error:
        raise RecordError(place, f"it is not JSON ({error})", "write one JSON object a line") from error
    named = isinstance(case, dict) and isinstance(case.get("case"), str) and case["case"]
    if not named or not isinstance(case.get("messages"), list) or not case["messages"]:
        raise RecordError(place, "a case has a name and messages", 'write {"case": "NAME", "messages": [...]}')
    if not all(sign.isalnum() or sign in "_-." for sign in case["case"]) or case["case"].startswith("."):
        raise RecordError(f"{place}: case", f"{case['case']!r} cannot be a file's name", "use letters, digits, _ and -")
    refuse_unknown(case, GIVEN, place)
    messages = [read_message(item, place) for item in case["messages"]]
    answered = messages[-1]["role"] == "assistant"
    kind = case.setdefault("kind", "train" if answered else "generate")
    if kind not in REQUIRED or (kind == "train") != answered:
        why = "a train case ends with the assistant, a generate case with the user"
        raise RecordError(f"{place}: kind", f"{kind} does not fit the messages", why)
    return {"options": {}, **case, "messages": root_pictures(messages, root)}


def read_message(message: Any, place: str) -> dict[str, Any]:
    """A message with its content as a list of parts.

    Raises:
        RecordError: for a role or part that the format does not have.
    """
    if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
        why = "a message has a role, which is system, user or assistant, and content"
        raise RecordError(f"{place}: messages", why, 'write {"role": "user", "content": "..."}')
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for part in parts if isinstance(parts, list) else [content]:
        if not is_part(part):
            shown = json.dumps(part, ensure_ascii=False)[:80]
            raise RecordError(f"{place}: {shown}", "it is no part of a message", "a part is a text, a picture's path, "
                              'or the frames of a video: {"type": "video", "frames": [...]}')
    return {**message, "content": parts}


def is_part(part: Any) -> bool:
    """Whether something is a part of a message in the format."""
    if not isinstance(part, dict) or part.get("type") not in PARTS:
        return False
    value = part.get(PARTS[part["type"]])
    listed = value if isinstance(value, list) and part["type"] == "video" else [value]
    return all(isinstance(item, str) for item in listed)


def map_pictures(messages: Sequence[Case], change: Callable[[str], str]) -> list[dict[str, Any]]:
    """The messages with every path of a picture or frame changed."""

    def part(item: Case) -> dict[str, Any]:
        new = dict(item)
        if item.get("type") == "image":
            new["image"] = change(item["image"])
        elif item.get("type") == "video":
            new["frames"] = [change(frame) for frame in item["frames"]]
        return new

    return [{**message, "content": [part(item) for item in message["content"]]} for message in messages]


def root_pictures(messages: Sequence[Case], root: Path) -> list[dict[str, Any]]:
    """The messages with paths that start from a folder."""
    return map_pictures(messages, lambda path: str(root / path))


def place_pictures(case: Case, folder: Path) -> dict[str, Any]:
    """The case with its pictures copied to `folder/images` and their paths starting from the folder."""

    def place(source: str) -> str:
        content = Path(source).read_bytes()
        target = folder / "images" / Path(source).name
        if target.exists() and target.read_bytes() != content:
            target = target.with_name(f"{target.stem}-{hashlib.sha256(content).hexdigest()[:8]}{target.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, lambda path: path.write_bytes(content))
        return f"images/{target.name}"

    return {**case, "messages": map_pictures(case["messages"], place)}


def place_checkpoint(folder: Path, source: Path | str) -> Path:
    """Copies the checkpoint below the folder, whole or not at all; returns where it is."""
    target = folder / "checkpoint"
    if target.is_dir() and (not source or target.samefile(source)):
        return target
    if target.exists():
        raise RecordError(f"checkpoint {source}", f"{target} is there already", "leave it out, or give another folder")
    if not source or not Path(source).is_dir():
        raise RecordError(f"checkpoint {source or '(none)'}", "it is no folder", "give the folder of the checkpoint")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".checkpoint"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    partial.rename(target)
    return target


def check_values(
    case: Case, values: Mapping[str, Any], extra: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a reference returned, as JSON and as tensors of the format.

    Raises:
        RecordError: for values that are missing, unknown or cannot be right.
    """
    place = f"case {case['case']}"
    refuse_unknown(values, (*IDS, *NUMBERS, *TEXTS, *TENSORS, "batch", *extra), place)
    given = {name: value for name, value in values.items() if value is not None}
    missing = [name for name in REQUIRED[case["kind"]] if name not in given]
    if missing:
        raise RecordError(place, f"the reference returned no {' and no '.join(missing)}", "let it return them")
    plain: dict[str, Any] = {name: list_ids(given[name], f"{place}: {name}") for name in IDS if name in given}
    plain.update({name: read_number(given[name]) for name in NUMBERS if name in given})
    plain.update({name: given[name] for name in (*TEXTS, "batch") if name in given})
    tensors = {n: read_tensor(given[n], f"{place}: {n}", n in extra) for n in (*TENSORS, *extra) if n in given}
    if "logits" in tensors:
        tensors.update(shorten_logits(tensors.pop("logits"), plain, place))
    check_ids(plain, tensors, place)
    return plain, tensors


def check_ids(plain: Mapping[str, Any], tensors: Mapping[str, np.ndarray], place: str) -> None:
    """Refuses labels that stand elsewhere than their ids, and answers that are not greedy."""
    ids, labels = plain["input_ids"], plain.get("labels")
    if labels is not None and len(labels) != len(ids):
        raise RecordError(f"{place}: labels", f"there are {len(labels)} for {len(ids)} ids", "give one for each id")
    for at, (label, token) in enumerate(zip(labels or (), ids)):  # noqa: B905 - Python 3.9 has no strict
        if label not in (IGNORED, token):
            raise RecordError(f"{place}: labels", f"at {at} stands {label} where the id is {token}",
                              f"give labels in the place of their ids, not shifted, and {IGNORED} elsewhere")
    if labels is not None and all(label == IGNORED for label in labels):
        raise RecordError(f"{place}: labels", "no position has loss", "check what is masked")
    if plain.get("generated_ids") and "logits_last" in tensors:
        row = tensors["logits_last"][-1]
        first, likeliest = plain["generated_ids"][0], int(row.argmax())
        if not 0 <= first < len(row) or row[first] < row[likeliest]:
            raise RecordError(f"{place}: generated_ids", f"it begins with {first} where {likeliest} is likeliest",
                              "decode greedily, without sampling or penalties, and give the new ids only")


def shorten_logits(logits: np.ndarray, plain: Mapping[str, Any], place: str) -> dict[str, np.ndarray]:
    """The last positions in full, and the norm at every position."""
    import numpy as np

    rows = logits[0] if logits.ndim == 3 and len(logits) == 1 else logits
    wanted = plain.get("sequence_length", len(plain["input_ids"]))
    if rows.ndim != 2 or len(rows) != wanted:
        raise RecordError(f"{place}: logits", f"their shape is {logits.shape} for a sequence of {wanted}",
                          "give one row for each position; sequence_length says how many, if not as many as ids")
    norms = np.sqrt(np.square(rows.astype(np.float64)).sum(-1)).astype(np.float32)
    return {"logits_last": np.ascontiguousarray(rows[-LAST:]), "logits_norm": norms}


def list_ids(value: Any, place: str) -> list[int]:
    """A row of whole numbers; one axis in front, of a batch of one, is taken off."""
    row = to_numpy(value).tolist() if hasattr(value, "shape") else list(value)
    row = row[0] if len(row) == 1 and isinstance(row[0], list) else row
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in row):
        raise RecordError(place, "it is no row of whole numbers", "give a list, or a tensor of one axis")
    return list(row)


def read_number(value: Any) -> float | int:
    """A single number, also from a tensor."""
    number: float | int = value.item() if hasattr(value, "item") else value
    return number


def read_tensor(value: Any, place: str, whole: bool) -> np.ndarray:
    """A tensor as it is written; floats must be float32 and finite.

    Args:
        value: a torch tensor or numpy array.
        place: for errors.
        whole: whether it may hold whole numbers or truth values.
    """
    import numpy as np

    array = to_numpy(value)
    if whole and array.dtype.kind in "iub":
        return np.ascontiguousarray(array)
    if array.dtype not in (np.float32, np.float64):
        raise RecordError(place, f"it is {array.dtype}", "run the reference in float32 on the CPU")
    if not np.isfinite(array).all():
        raise RecordError(place, "it holds values that are no numbers", "check the reference and its checkpoint")
    return np.ascontiguousarray(array, dtype=np.float32)


def to_numpy(value: Any) -> np.ndarray:
    """An array of a torch tensor, an array or numbers; numpy has no bfloat16, which is refused.

    Several tensors, of pictures, become one: stacked, or joined where they have different numbers of tokens.
    """
    import numpy as np

    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "shape"):
        parts = [to_numpy(part) for part in value]
        return np.stack(parts) if len({part.shape for part in parts}) == 1 else np.concatenate(parts)

    if hasattr(value, "detach"):
        if str(value.dtype) == "torch.bfloat16":
            raise RecordError("a tensor in bfloat16", "parity is held in float32", "load the reference in float32")
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    """Refuses names that the format does not have, with near ones."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            known_names = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
            raise RecordError(f"{place}: {name}", "the format has no such value", known_names)


def write_case(path: Path, data: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes the tensors, then the JSON: a case whose JSON is there is whole."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, ensure_ascii=False, indent=1)
    replace_file(path.with_suffix(".safetensors"), lambda part: save_file(dict(tensors), str(part)))
    replace_file(path, lambda part: part.write_text(text + "\n", encoding="utf8"))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside a file and renames."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_reference(name: str) -> Reference:
    """The callable that `module:callable` or `file.py:callable` names; modules are also looked for in this folder.

    Raises:
        RecordError: when there is none.
    """
    module, _, attribute = name.rpartition(":")
    if not module:
        raise RecordError(f"reference {name}", "it names no callable", "write module:callable or file.py:callable")
    reference = getattr(load_module(module), attribute, None)
    if not callable(reference):
        raise RecordError(f"reference {name}", f"{module} has no callable {attribute}", "check its name")
    found: Reference = reference
    return found


def load_module(name: str) -> Any:
    """A module by its file or name."""
    if name.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        if spec is None or spec.loader is None or not Path(name).is_file():
            raise RecordError(f"file {name}", "it is not there", "check its path")
        module = importlib.util.module_from_spec(spec)
        sys.modules[Path(name).stem] = module
        sys.path.insert(0, str(Path(name).resolve().parent))
        spec.loader.exec_module(module)
        return module
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise RecordError(f"module {name}", "it cannot be found", "check its name, or give its file") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of this file where vlcore is not installed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", help="module:callable or file.py:callable")
    parser.add_argument("--cases", required=True, help="JSON lines: case, messages, and if need be kind, options")
    parser.add_argument("--out", required=True, help="folder of the data")
    parser.add_argument("--checkpoint", default="", help="folder of the checkpoint; it is copied")
    parser.add_argument("--extra", nargs="*", default=(), help="further tensors the model is fed")
    given = parser.parse_args(arguments)
    try:
        cases = read_cases(given.cases)
        for name in record(load_reference(given.reference), cases, given.out, given.checkpoint, given.extra):
            print(f"recorded {name}")
    except (RecordError, OSError) as error:
        if error.__cause__ is not None:
            traceback.print_exception(type(error), error.__cause__, error.__cause__.__traceback__)
        sys.exit(f"recorder: error: {error}")


if __name__ == "__main__":
    main()
