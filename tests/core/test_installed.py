import json

import pytest
from click.testing import CliRunner
from importlib_metadata import entry_points
from vlcore.cli import cli
from vlcore.installed import inspect_plugins

FAMILY = """
import vlcore
from vlcore.family import ModelFamily, ModelRecord

@vlcore.hookimpl
def register_models():
    return [ModelFamily(name="toy", models=(ModelRecord(name="toy-1b", huggingface="toy/TOY-1B"),),
                        recognise=lambda config, folder: False, parts=None)]
"""
#: What a module of a plugin may hold, and parts of the findings it leads to.
FAULTS = {
    "sound": (FAMILY, ()),
    "raises": ("raise RuntimeError('out\\nof order')", ("left out: RuntimeError: out of order", "pip uninstall toy-x")),
    "needs a module": ("import a_module_that_is_not_there", ("left out: ModuleNotFoundError",)),
    "misspelt": ("import vlcore\n@vlcore.hookimpl\ndef lode_model(checkpoint): ...", ("did you mean load_model?",)),
    "argument": ("import vlcore\n@vlcore.hookimpl\ndef load_model(chekpoint): ...",
                 ("load_model is given no argument chekpoint", "did you mean checkpoint?", "uninstall toy-x")),
    "no return": ("import vlcore\n@vlcore.hookimpl\ndef register_models(): ...",
                  ("left out: TypeError: register_models gave nothing; let it return a list of ModelFamily",)),
    "no list": (FAMILY.replace("[", "").replace("]", ""), ("gave ModelFamily, which is no list of ModelFamily",)),
    "no tuple": (FAMILY.replace("parts=None", 'native=("llava")'), ('write native=("llava",)',)),
    "no mark": (FAMILY.replace("@vlcore.hookimpl", ""), ("fills no hook; mark its hooks with @vlcore.hookimpl",)),
}


def inspect(limit=None):
    points = [p for p in entry_points(group="vlcore") if p.name == "native" or p.dist.name.startswith("toy-")]
    return [finding.describe() for finding in inspect_plugins(points, limit)]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_a_plugin_is_one_line_with_what_to_do(kind, write_distribution):
    code, parts = FAULTS[kind]
    write_distribution("toy-x", point="x", code=code)
    lines = inspect()
    assert len(lines) == bool(parts)
    for line in lines:
        assert line.startswith("fault: ") and "\n" not in line and "toy-x 1.2.3" in line
        assert all(part in line for part in parts)


def test_faults_of_several_plugins_are_all_told(write_distribution):
    write_distribution("toy-a", point="a", code=FAULTS["misspelt"][0])
    write_distribution("toy-b", point="b", code=FAULTS["argument"][0])
    write_distribution("toy-c", point="c", code=FAMILY)
    write_distribution("toy-d", point="d", code=FAMILY)
    write_distribution("toy-e", point="d", code="")
    text = "\n".join(inspect())
    for part in ("hook lode_model of toy-a", "plugin b of toy-b", "plugin d: toy-d 1.2.3 and toy-e 1.2.3",
                 "model toy-1b: toy-c 1.2.3 and toy-d 1.2.3 both own it"):
        assert part in text


def test_two_owners_of_one_model_type_are_told(write_distribution):
    code = FAMILY.replace("recognise=lambda config, folder: False", 'native=("llava",)')
    write_distribution("toy-a", point="a", code=code)
    write_distribution("toy-b", point="b", code=code.replace("toy-1b", "b-1b").replace("TOY", "B"))
    (line,) = inspect()
    assert line.startswith("fault: model type llava: toy-a 1.2.3 and toy-b 1.2.3 both own it; uninstall one of them")


def test_a_plugin_for_a_newer_core_is_told_once(write_distribution):
    write_distribution("toy-x", point="x", code="raise AssertionError", requires=["vlcore>=99"])
    (line,) = inspect()
    assert line == f"fault: plugin x of toy-x 1.2.3 was left out: it needs vlcore>=99, and {line.split('and ')[1]}"
    assert line.endswith("run: pip install -U vlcore")


def test_requirements_out_of_range_and_missing_extras_are_told(write_distribution):
    write_distribution("toy-x", point="x", code=FAMILY, requires=["transformers<4", "toy-gone", "vlcore[no-such]"])
    lines = inspect()
    assert len(lines) == 3
    assert lines[0].startswith("fault: toy-x 1.2.3 needs transformers<4: transformers ")
    assert lines[1] == "fault: toy-x 1.2.3 needs toy-gone: it is not installed; run: pip install 'toy-gone'"
    assert "has no extra no-such" in lines[2]


def test_requirements_that_cannot_be_read_are_told_once(write_distribution):
    write_distribution("toy-x", point="x", requires=["toy >>> 1"])
    (line,) = inspect()
    assert "InvalidRequirement" in line


def test_a_plugin_left_out_on_purpose_is_a_note(write_distribution):
    write_distribution("toy-x", point="x", code=FAMILY, requires=["toy-gone"])
    (line,) = inspect("")
    assert line == "note: plugin x of toy-x 1.2.3: VLCORE_PLUGINS= leaves it out; unset VLCORE_PLUGINS or add x to it"


def test_the_command_ends_with_1_for_faults_and_0_for_notes(write_distribution, monkeypatch):
    def run(*arguments):
        result = CliRunner().invoke(cli, ["plugins", "--check", *arguments], standalone_mode=False)
        return result.return_value or 0, result.stdout

    monkeypatch.setenv("VLCORE_PLUGINS", "internvl")
    code, said = run()
    assert code == 0 and said.splitlines()[-1].endswith("nothing is wrong") and "note: plugin yi_vl" in said
    monkeypatch.setenv("VLCORE_PLUGINS", "internvl,x")
    write_distribution("toy-x", point="x", code=FAMILY, requires=["toy-gone"])
    code, said = run()
    assert code == 1 and said.splitlines()[-1].endswith("1 fault")
    code, said = run("--json")
    assert code == 1 and json.loads(said)[0]["given"] == "toy-x 1.2.3 needs toy-gone"
