from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file
from vlcore import recorder
from vlcore.cli import cli
from vlcore.errors import UsageError
from vlcore.native.tiny import write_tiny
from vlcore.parity import find_cases, run_cases
from vlcore.recorder import RecordError, read_cases, record

#: What a sound reference returns for the cases below.
LOGITS = np.eye(12, dtype=np.float32)[None, :10] * 3
GENERATED = {"prompt": "ask", "input_ids": list(range(10)), "generated_ids": [9, 1], "generated_text": "yes",
             "logits": LOGITS}
TRAINED = {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "loss": 0.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint, two pictures of one name, and a file of cases."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for place, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / place).mkdir()
        Image.new("RGB", (4, 3), colour).save(tmp_path / place / "cat.png")
    picture = [{"type": "image", "image": "a/cat.png"}, {"type": "text", "text": "What?"}]
    frames = [{"type": "video", "frames": ["a/cat.png", "b/cat.png"]}]
    write_cases(tmp_path, [
        {"case": "one", "messages": [{"role": "user", "content": picture}], "options": {"max_num": 2}, "notes": "red"},
        {"case": "two", "messages": [{"role": "user", "content": frames}, {"role": "assistant", "content": "A."}]},
    ])
    return tmp_path


def write_cases(folder: Path, cases: list[Any]) -> None:
    (folder / "cases.jsonl").write_text("\n".join(map(json.dumps, cases)), "utf8")


def answer(case: Any) -> dict[str, Any]:
    return GENERATED if case["kind"] == "generate" else TRAINED


def record_all(folder: Path, reference: Any = answer, **more: Any) -> Path:
    out = folder / "out"
    list(record(reference, read_cases(folder / "cases.jsonl"), out, folder / "model", **more))
    return out


def test_what_is_recorded_is_in_the_format(folder: Path) -> None:
    out = record_all(folder)
    data = json.loads((out / "cases" / "one.json").read_text("utf8"))
    assert data["messages"][0]["content"][0] == {"type": "image", "image": "images/cat.png"}
    assert (data["kind"], data["options"], data["generated_ids"]) == ("generate", {"max_num": 2}, [9, 1])
    assert data["notes"] == "red"
    tensors = load_file(out / "cases" / "one.safetensors")
    assert tensors["logits_last"].shape == (8, 12) and tensors["logits_norm"].tolist() == [3.0] * 10
    assert json.loads((out / "cases" / "two.json").read_text("utf8"))["labels"] == [-100, 2, 3]
    assert sorted(path.name for path in out.iterdir()) == ["cases", "checkpoint", "images"]
    assert (out / "checkpoint" / "config.json").exists()


def test_pictures_of_one_name_and_other_content_are_both_kept(folder: Path) -> None:
    out = record_all(folder)
    data = json.loads((out / "cases" / "two.json").read_text("utf8"))
    paths = data["messages"][0]["content"][0]["frames"]
    assert paths[0] == "images/cat.png" != paths[1]
    colours = [Image.open(out / path).getpixel((0, 0)) for path in paths]
    assert colours == [(255, 0, 0), (0, 0, 255)]


def test_the_reference_is_given_paths_that_exist_and_the_folder_leaves_its_prompt(folder: Path) -> None:
    seen = []

    def reference(case: Any) -> dict[str, Any]:
        seen.append(case)
        assert Path(case["checkpoint"], "config.json").exists()
        if case["kind"] == "train":
            return TRAINED
        path = case["messages"][0]["content"][0]["image"]
        assert Path(path).is_absolute() and Path(path).exists()
        return {**GENERATED, "prompt": f"<img>{path}</img>"}

    out = record_all(folder, reference)
    assert [sorted(case) for case in seen] == [["case", "checkpoint", "kind", "messages", "options"]] * 2
    assert json.loads((out / "cases" / "one.json").read_text("utf8"))["prompt"] == "<img>images/cat.png</img>"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generated_ids": None}, "returned no generated_ids"),
        ({"generated_ids": [3, 1]}, "begins with 3 where 9 is likeliest"),
        ({"generated_ids": [99]}, "begins with 99 where"),
        ({"generated_ids": [[1, 2], [3, 4]]}, "no row of whole numbers"),
        ({"generated_ids": [0.5]}, "no row of whole numbers"),
        ({"logits": LOGITS[:, 1:]}, "for a sequence of 10"),
        ({"logits": LOGITS.astype(np.float16)}, "it is float16"),
        ({"logits": np.where(LOGITS, np.float32("inf"), LOGITS)}, "are no numbers"),
        ({"pixel_value": LOGITS}, "did you mean pixel_values"),
        ({"image_grid_thw": np.ones((1, 3), int)}, "the format has no such value"),
    ],
)
def test_values_that_cannot_be_right_are_refused_and_not_written(folder: Path, changes: Any, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        record_all(folder, lambda case: {**GENERATED, **changes})
    assert not (folder / "out" / "cases").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [-100, 3, -100]}, "at 1 stands 3 where the id is 2; .*not shifted"),
        ({"labels": [2, 3]}, "there are 2 for 3 ids"),
        ({"labels": [-100] * 3}, "no position has loss"),
        ({"loss": None}, "returned no loss"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(folder: Path, changes: Any, said: str) -> None:
    with pytest.raises(RecordError, match=said):
        record_all(folder, lambda case: {**answer(case), **(changes if case["kind"] == "train" else {})})
    assert (folder / "out" / "cases" / "one.json").exists() and not (folder / "out" / "cases" / "two.json").exists()


def test_tensors_of_torch_and_further_tensors_are_taken(folder: Path) -> None:
    import torch

    def reference(case: Any) -> dict[str, Any]:
        tensors = {"input_ids": torch.arange(10)[None], "logits": torch.tensor(LOGITS, requires_grad=True)}
        grid = {"image_grid_thw": torch.ones(1, 3, dtype=torch.int64)}
        return {**GENERATED, **tensors, **grid} if case["kind"] == "generate" else TRAINED

    out = record_all(folder, reference, extra=["image_grid_thw"])
    assert load_file(out / "cases" / "one.safetensors")["image_grid_thw"].tolist() == [[1, 1, 1]]
    with pytest.raises(RecordError, match="bfloat16"):
        recorder.to_numpy(torch.ones(1, dtype=torch.bfloat16))


def test_a_reference_that_raises_leaves_what_was_recorded(folder: Path) -> None:
    def reference(case: Any) -> dict[str, Any]:
        return GENERATED if case["kind"] == "generate" else {}["gone"]

    with pytest.raises(RecordError, match="case two: the reference raised KeyError: 'gone'"):
        record_all(folder, reference)
    assert sorted(path.name for path in (folder / "out" / "cases").iterdir()) == ["one.json", "one.safetensors"]


def test_nothing_recorded_is_overwritten(folder: Path) -> None:
    out = record_all(folder)
    with pytest.raises(RecordError, match="checkpoint is there already"):
        record_all(folder)
    with pytest.raises(RecordError, match="one.json: it is recorded already"):
        list(record(answer, read_cases(folder / "cases.jsonl"), out))


def test_cases_may_be_added_later(folder: Path) -> None:
    out = record_all(folder)
    write_cases(folder, [{"case": "three", "messages": [{"role": "user", "content": "Hello"}]}])
    assert list(record(answer, read_cases(folder / "cases.jsonl"), out)) == ["three"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["{"], "cases.jsonl:1: it is not JSON"),
        (['{"case": "a"}'], "cases.jsonl:1: a case has a name and messages"),
        (['{"case": "../a", "messages": [{"role": "user", "content": "x"}]}'], "cannot be a file's name"),
        (['{"case": "a", "messages": [{"role": "user", "content": "x"}], "option": {}}'], "did you mean options"),
        (['{"case": "a", "messages": [{"role": "user", "content": "x"}], "kind": "train"}'], "train does not fit"),
        (["", '{"case": "a", "messages": [{"role": "user", "content": "x"}]}'] * 2, "cases.jsonl:4: .*there twice"),
        (['{"case": "a", "messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}]}'],
         "no part of a message"),
        (['{"case": "a", "messages": [{"role": "user", "content": [{"type": "image"}]}]}'], "no part of a message"),
        (['{"case": "a", "messages": [{"role": "user"}]}'], "cases.jsonl:1: null: it is no part"),
        (['{"case": "a", "messages": ["x"]}'], "cases.jsonl:1: messages: a message has a role"),
        (["[1]"], "a case has a name and messages"),
        ([""], "holds no case"),
    ],
)
def test_cases_that_cannot_be_read_are_named_by_file_and_line(folder: Path, lines: list[str], said: str) -> None:
    (folder / "cases.jsonl").write_text("\n".join(lines), "utf8")
    with pytest.raises(RecordError, match=said):
        read_cases(folder / "cases.jsonl")


REFERENCE = """
import numpy as np

def answer(case):
    logits = np.eye(12, dtype=np.float32)[:10]
    return {"input_ids": list(range(10)), "generated_ids": [9], "generated_text": "yes", "logits": logits}
"""


def test_the_script_records_without_vlcore_and_without_torch(folder: Path) -> None:
    write_cases(folder, [{"case": "one", "messages": [{"role": "user", "content": "Hello"}]}])
    script = CliRunner().invoke(cli, ["parity", "record", "--script"], standalone_mode=False).stdout
    (folder / "recorder.py").write_text(script, "utf8")
    (folder / "reference.py").write_text(REFERENCE, "utf8")
    # None in sys.modules makes an import fail, as if it were not installed.
    start = "import sys, runpy; sys.modules.update(vlcore=None, torch=None, transformers=None); " \
            "runpy.run_path('recorder.py', run_name='__main__')"
    arguments = ["reference.py:answer", "--cases", "cases.jsonl", "--checkpoint", "model", "--out", "out"]
    command = [sys.executable, "-c", start, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "recorded one\n" and (folder / "out" / "cases" / "one.json").exists()
    again = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and again.stderr.startswith("recorder: error: ")


def test_the_recorder_is_written_in_the_python_of_older_environments() -> None:
    source = Path(recorder.__file__).read_text("utf8")
    tree = ast.parse(source, feature_version=(3, 9))
    heads = {(node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    assert {name.split(".")[0] for name in heads} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("reference", "said"),
    [("reference.py", "names no callable"), ("gone.py:answer", "is not there"), ("reference.py:anwser", "no callable"),
     ("no_such_module:answer", "cannot be found")],
)
def test_a_reference_that_is_not_there_is_named(folder: Path, monkeypatch: Any, reference: str, said: str) -> None:
    (folder / "reference.py").write_text(REFERENCE, "utf8")
    monkeypatch.chdir(folder)
    command = ["parity", "record", reference, "--cases", "cases.jsonl", "--out", "out"]
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(cli, command, standalone_mode=False, catch_exceptions=False)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reference of docs/parity.md, which knows nothing of vlcore, computes for a tiny LLaVA."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "model").mkdir()
    write_tiny("llava", folder / "model", ["What is this?"])
    Image.effect_noise((50, 40), 60).convert("RGB").save(folder / "cat.png")
    page = (Path(__file__).parents[2] / "docs" / "parity.md").read_text("utf8")
    for title, text in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL):
        (folder / title).write_text(text, "utf8")
    reference = recorder.load_reference(str(folder / "reference.py:answer"))
    first = read_cases(folder / "cases.jsonl")[:1]
    assert list(record(reference, first, folder / "out", folder / "model")) == ["a_picture"]
    return folder / "out"


def test_what_is_recorded_of_a_model_in_transformers_is_met(recorded: Path) -> None:
    (outcome,) = run_cases(find_cases([recorded]))
    assert outcome.faults == ()
    assert {"input_ids", "pixel_values", "image_features", "logits_last", "generated_ids"} <= set(outcome.differences)


@pytest.mark.parametrize("name", ["input_ids", "generated_text", "pixel_values", "image_features", "logits_last"])
def test_recorded_data_that_is_tampered_with_fails(recorded: Path, tmp_path: Path, name: str) -> None:
    changed = Path(shutil.copytree(recorded, tmp_path / "out"))
    path = changed / "cases" / "a_picture.json"
    data, tensors = json.loads(path.read_text("utf8")), load_file(path.with_suffix(".safetensors"))
    if name in tensors:
        tensors[name].flat[0] += 0.5
    else:
        data[name] = data[name][:-1]
    recorder.write_case(path, data, tensors)
    (outcome,) = run_cases(find_cases([changed]))
    assert [fault.split()[0] for fault in outcome.faults] == [name]


def test_the_command_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="needs a reference, --cases and --out"):
        CliRunner().invoke(cli, ["parity", "record"], standalone_mode=False, catch_exceptions=False)
