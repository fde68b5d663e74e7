"""The kit in pytest: a test for each check of each family of a plugin.

    pytest_plugins = ["vlcore.testing.pytest"]
    vlcore_plugin = "vlcore-foo"            # a plugin, a distribution, a family, or several in a tuple
    vlcore_parity = ("recorded",)           # folders with parity data beside the module; may be left out
    vlcore_checks = ("parts", "merge")      # only these checks; all when left out

    def test_conformance(vlcore_check):
        vlcore_check()

It is a plugin that a module of tests asks for, not one that every run of pytest loads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vlcore.testing.kit import choose_checks, find_families, run_check
from vlcore.testing.subject import Subject


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes a test of each check for functions that take `vlcore_check`."""
    if "vlcore_check" not in metafunc.fixturenames:
        return
    named: Any = getattr(metafunc.module, "vlcore_plugin", ())
    if not named:
        raise pytest.UsageError(f"{metafunc.module.__name__}: it says nothing of the plugin to check; write "
                                "vlcore_plugin = NAME")
    place = Path(metafunc.module.__file__).parent
    parity = tuple(place / folder for folder in getattr(metafunc.module, "vlcore_parity", ()))
    families = [pair for name in ([named] if isinstance(named, str) else named) for pair in find_families(name)]
    checks = choose_checks(getattr(metafunc.module, "vlcore_checks", ()))
    cases = [pytest.param((plugin, family, parity, check), id=f"{family.name}-{check}")
             for plugin, family in families for check in checks]
    metafunc.parametrize("vlcore_check", cases, indirect=True)


@pytest.fixture(scope="session")
def vlcore_subjects() -> dict[str, Subject]:
    """The families that were checked so far, by name; each loads its model once."""
    return {}


@pytest.fixture
def vlcore_check(
    request: pytest.FixtureRequest, vlcore_subjects: dict[str, Subject], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], None]:
    """Runs one check of one family: fails with what the plugin must change, skips with why it does not apply."""
    plugin, family, parity, check = request.param
    if family.name not in vlcore_subjects:
        work = tmp_path_factory.mktemp("vlcore")
        vlcore_subjects[family.name] = Subject(plugin, family, work, parity)
    subject = vlcore_subjects[family.name]

    def run() -> None:
        outcome = run_check(check, subject)
        if outcome.failed:
            pytest.fail(f"{outcome.text}; see {outcome.page}", pytrace=False)
        if outcome.state == "not applicable":
            pytest.skip(outcome.text)

    return run
