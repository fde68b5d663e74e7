"""The kit as a plugin of pytest, in runs of pytest within this one."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest_plugins = ["pytester"]
MODULE = """
pytest_plugins = ["vlcore.testing.pytest"]
vlcore_plugin = ("toy",)

def test_conformance(vlcore_check):
    vlcore_check()
"""


@pytest.fixture
def toy(use_plugins: Any, make_point: Any, make_plugin: Callable[..., Any], make_family: Callable[..., Any]) -> None:
    """A plugin whose records are wrong, so that nothing need be loaded to see it."""
    # A run within this one forgets what it has imported, and these can be imported only once.
    importlib.import_module("numpy")
    importlib.import_module("transformers").GenerationConfig()
    use_plugins(make_point("toy", make_plugin(make_family(tags=("<picture>",)))))


@pytest.mark.usefixtures("toy")
def test_a_module_may_choose_checks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE + '\nvlcore_checks = ("recorded",)\n')
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(skipped=1)


@pytest.mark.usefixtures("toy")
def test_each_check_is_a_test_that_fails_in_one_line_or_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE)
    result = pytester.runpytest_inprocess("-k", "toy-records or toy-recorded", "-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(failed=1, skipped=1, deselected=21)
    result.stdout.fnmatch_lines(["tags: <image> is not among <picture>; add it to ModelFamily.tags; see *#records"])
    result.stdout.fnmatch_lines(["SKIPPED*no parity data was given*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_module_that_names_no_plugin_is_told_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE.replace('vlcore_plugin = ("toy",)', ""))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*it says nothing of the plugin to check; write vlcore_plugin = NAME*"])


@pytest.mark.usefixtures("toy")
def test_a_name_that_means_no_plugin_is_told_in_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE.replace('("toy",)', '"toi"'))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["plugin toi: no family of an installed plugin is meant; did you mean toy*"])
    result.stdout.no_fnmatch_line("*kit.py*")


@pytest.mark.usefixtures("toy")
def test_modules_with_parity_data_of_their_own_are_checked_each_with_its_own(pytester: pytest.Pytester) -> None:
    recorded = '\nvlcore_checks = ("recorded",)\n'
    (pytester.path / "empty").mkdir()
    pytester.makepyfile(test_a=MODULE + recorded, test_b=MODULE + recorded + 'vlcore_parity = "empty"\n')
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1, failed=1)
    result.stdout.fnmatch_lines(["*/empty: no checkpoint/ with cases/ lies below it; *#recorded"])


def test_loading_it_imports_nothing_heavy() -> None:
    code = "import sys, vlcore.testing.pytest; print({'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
