"""Plugins that pip installed, seen through the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAMILY = """
import vlcore
from vlcore.family import ModelFamily, ModelRecord, Parts

@vlcore.hookimpl
def register_models():
    record = ModelRecord(name="toy-1b", huggingface="toy/TOY-1B")
    parts = Parts(language=("language",), vision=("vision",), projector=("projector",))
    yield ModelFamily(name="{name}", models=(record,), recognise=lambda config, folder: False, parts=parts)
"""
#: Distribution -> the name of its entry point and its module.
PROJECTS = {
    "toy-rival": ("rival", FAMILY.format(name="rival")),
    "toy-second": ("second", FAMILY.format(name="second")),
    "toy-good": ("good", ""),
    "toy-twin": ("good", ""),
    "toy-raises": ("raises", "raise RuntimeError('out\\nof order')"),
    "toy-needs": ("needs", "import a_module_that_is_not_there"),
    "toy-misspelt": ("misspelt", "import vlcore\n@vlcore.hookimpl\ndef lode_model(checkpoint): ..."),
    "toy-arguments": ("arguments", "import vlcore\n@vlcore.hookimpl\ndef load_model(chekpoint): ..."),
    "toy-newer": ("newer", "from vlcore import a_name_of_tomorrow"),
}
#: Distribution -> what it requires; pip is told to leave requirements alone.
REQUIRES = {"toy-newer": "vlcore>=99"}
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.2.3"
dependencies = [{requires}]

[project.entry-points.vlcore]
{point} = "{module}"
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip has installed all the projects into; tests choose by VLCORE_PLUGINS."""
    root = tmp_path_factory.mktemp("projects")
    for name, (point, code) in PROJECTS.items():
        module = name.replace("-", "_")
        (root / name).mkdir()
        (root / name / f"{module}.py").write_text(code)
        (root / name / "pyproject.toml").write_text(PYPROJECT.format(
            name=name, point=point, module=module, requires=f'"{REQUIRES[name]}"' if name in REQUIRES else ""))
    target = root / "site"
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    folders = [root / name for name in PROJECTS]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", target, *folders], check=True)
    return target


def run(site: Path, plugins: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "VLCORE_PLUGINS": plugins}
    command = [sys.executable, "-c", "from vlcore.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        ("raises", "RuntimeError: out of order"),
        ("needs", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
    ],
)
def test_broken_plugin_costs_one_line_and_the_others_are_listed(site, plugin, reason):
    models, plugins = (run(site, f"{plugin},rival", command) for command in ("models", "plugins"))
    assert models.returncode == plugins.returncode == 0
    (warning,) = models.stderr.splitlines()
    assert f"vlcore: warning: plugin {plugin} of toy-{plugin} 1.2.3 was left out: {reason}; " in warning
    assert f"pip uninstall toy-{plugin}" in warning and "VLCORE_PLUGINS" in warning
    assert "toy-1b" in models.stdout
    assert reason in plugins.stdout and "rival" in plugins.stdout


def test_plugin_for_a_newer_core_is_refused_by_name_with_the_command_and_the_others_go_on(site):
    result = run(site, "newer,rival", "models")
    (warning,) = result.stderr.splitlines()
    assert "plugin newer of toy-newer 1.2.3 was left out: it needs vlcore>=99, and vlcore " in warning
    assert warning.endswith("; run: pip install -U vlcore")
    assert result.returncode == 0 and "toy-1b" in result.stdout


def test_every_fault_is_told_at_once_and_ends_with_1(site):
    result = run(site, "raises,newer,misspelt,good,rival,second", "plugins", "--check")
    *lines, last = result.stdout.splitlines()
    faults = [line for line in lines if line.startswith("fault: ")]
    assert result.returncode == 1 and not result.stderr
    for part in ("toy-raises", "pip install -U vlcore", "lode_model", "plugin good", "model toy-1b"):
        assert sum(part in line for line in faults) >= 1, part
    assert last.endswith(f"{len(faults)} faults")
    assert any("note: plugin arguments of toy-arguments 1.2.3: VLCORE_PLUGINS=" in line for line in lines)


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        ("misspelt", ["hook lode_model of toy-misspelt 1.2.3", "did you mean load_model?"]),
        ("arguments", ["plugin arguments of toy-arguments 1.2.3", "chekpoint"]),
        ("good", ["plugin good", "toy-good 1.2.3 and toy-twin 1.2.3 both bring it"]),
        ("rival,second", ["model toy-1b", "toy-rival 1.2.3 and toy-second 1.2.3 both own it"]),
    ],
)
@pytest.mark.parametrize("command", ["models", "plugins"])
def test_faulty_plugins_are_refused_in_one_line_with_exit_code_4(site, plugins, said, command):
    result = run(site, plugins, command)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 4 and not result.stdout
    assert line.startswith("vlcore: error: ") and all(part in line for part in said)


def test_limit_leaves_all_other_installed_plugins_alone(site):
    result = run(site, "rival", "plugins", "--json")
    assert result.returncode == 0 and not result.stderr
    assert "toy-raises" not in result.stdout and "toy-rival" in result.stdout
