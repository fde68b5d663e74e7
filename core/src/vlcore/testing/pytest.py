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

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import pytest

from vlcore.errors import VlcoreError
from vlcore.testing.kit import choose_checks, find_families, run_check
from vlcore.testing.subject import Subject


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Makes a test of each check for functions that take `vlcore_check`."""
    if "vlcore_check" not in metafunc.fixturenames:
        return
    named = read_names(metafunc.module, "vlcore_plugin")
    if not named:
        raise pytest.Collector.CollectError(f"{metafunc.module.__name__}: it says nothing of the plugin to check; "
                                            "write vlcore_plugin = NAME")
    place = Path(metafunc.module.__file__).parent
    parity = tuple(place / folder for folder in read_names(metafunc.module, "vlcore_parity"))
    try:
        families = [pair for name in named for pair in find_families(name)]
        checks = choose_checks(read_names(metafunc.module, "vlcore_checks"))
    except VlcoreError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    cases = [pytest.param((plugin, family, parity, check), id=f"{family.name}-{check}")
             for plugin, family in families for check in checks]
    metafunc.parametrize("vlcore_check", cases, indirect=True)


def read_names(module: object, variable: str) -> tuple[str, ...]:
    """What a module of tests says in a variable: one name or several; none when it is left out."""
    said: str | Iterable[str] = getattr(module, variable, ())
    return (said,) if isinstance(said, str) else tuple(said)


@pytest.fixture(scope="session")
def vlcore_subjects() -> dict[Hashable, Subject]:
    """The families that were checked so far, by plugin, name and parity data; each loads its model once."""
    return {}


@pytest.fixture
def vlcore_check(
    request: pytest.FixtureRequest, vlcore_subjects: dict[Hashable, Subject], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], None]:
    """Runs one check of one family: fails with what the plugin must change, skips with why it does not apply."""
    plugin, family, parity, check = request.param
    key = (plugin.name, family.name, parity)
    if key not in vlcore_subjects:
        vlcore_subjects[key] = Subject(plugin, family, tmp_path_factory.mktemp("vlcore"), parity)
    subject = vlcore_subjects[key]

    def run() -> None:
        outcome = run_check(check, subject)
        if outcome.failed:
            pytest.fail(f"{outcome.text}; see {outcome.page}", pytrace=False)
        if outcome.state == "not applicable":
            pytest.skip(outcome.text)

    return run
