from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vlcore.cli import cli
from vlcore.errors import UsageError
from vlcore.testing.kit import CHECKS, check_plugin, choose_checks, find_families
from vlcore.testing.outcome import PAGE, Outcome

ROOT = Path(__file__).parents[3]


def run(*words: str) -> Any:
    return cli.main(["plugin", "check", *words], standalone_mode=False)


def test_every_check_has_a_heading_that_its_failure_points_to() -> None:
    lines = (ROOT / PAGE).read_text("utf8").splitlines()
    headings = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    assert headings[-len(CHECKS):] == list(CHECKS)
    told = Outcome("toy", "parts", "failed", "parts: none", 1.25).describe()
    assert told == "FAIL toy/parts (1.2 s): parts: none; see docs/plugins/checks.md#parts"
    assert Outcome("toy", "video", "not applicable", "no videos").describe() == "-    toy/video (0.0 s): no videos"


@pytest.mark.parametrize("name", ["internvl", "vlcore-internvl", "internvl/internvl"])
def test_a_family_is_meant_by_its_own_name_its_plugins_and_its_distributions(name: str) -> None:
    assert "internvl" in [family.name for _, family in find_families(name)]
    assert [family.name for _, family in find_families(name, "internvl")] == ["internvl"]


def test_a_model_type_of_transformers_is_meant_by_its_name() -> None:
    ((plugin, family),) = find_families("llava")
    assert (plugin.name, family.native) == ("native", ("llava",))


@pytest.mark.parametrize(("name", "family"), [("intervnl", ""), ("internvl", "yi_vl")])
def test_a_name_that_means_nothing_brings_near_ones(name: str, family: str) -> None:
    with pytest.raises(UsageError, match="no family of an installed plugin is meant; .*internvl"):
        find_families(name, family)


def test_a_plugin_without_a_family_is_told_so(use_plugins: Any, make_point: Any, make_plugin: Any) -> None:
    use_plugins(make_point("bare", make_plugin()))
    with pytest.raises(UsageError, match="plugin vlcore-bare: it registers no family; return its families from"):
        find_families("vlcore-bare")


def test_a_plugin_that_cannot_be_loaded_is_said_with_the_reason(use_plugins: Any, make_point: Any) -> None:
    with pytest.warns(UserWarning, match="left out"):
        use_plugins(make_point("broken", ImportError("no module named x")))
    with pytest.raises(UsageError, match="plugin broken: it cannot be loaded .ImportError: no module named x.; mend"):
        find_families("vlcore-broken")


def test_a_check_that_does_not_exist_brings_near_ones() -> None:
    assert choose_checks(("parts", "import")) == ("import", "parts")
    with pytest.raises(UsageError, match="there is no such check; did you mean padding"):
        choose_checks(("paddin",))


def test_a_checkpoint_that_is_given_is_tried_instead_of_a_tiny_one(tmp_path: Path) -> None:
    folder = ROOT / "tests" / "parity" / "data" / "internvl" / "internvl3_5-1b-tiny" / "checkpoint"
    tiny, labels = check_plugin("vlcore-internvl", tmp_path / "work", model=folder, only=["tiny", "labels"])
    assert (tiny.state, labels.state) == ("not applicable", "passed")
    assert "another checkpoint was given" in tiny.text


def test_a_folder_without_parity_data_is_refused_before_anything_is_tried(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a folder of parity data"):
        next(check_plugin("internvl", tmp_path / "work", parity=[tmp_path]))


def test_what_a_plugin_raises_or_prints_is_a_failure_of_its_own(
    use_plugins: Any, make_point: Any, make_plugin: Callable[..., Any], make_family: Callable[..., Any], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write_tiny(family: Any, folder: Path, texts: Any, seed: int) -> bool:
        print("loud", file=sys.stderr)
        raise RuntimeError("out of\norder")

    use_plugins(make_point("toy", make_plugin(make_family(), write_tiny=write_tiny)))
    (outcome,) = check_plugin("toy", tmp_path, only=["parts"])
    assert outcome.failed and "RuntimeError in testing/test_kit.py" in outcome.text
    assert capsys.readouterr().err == ""


def test_the_command_prints_a_line_a_check_and_fails_when_one_does(
    use_plugins: Any, make_point: Any, make_plugin: Callable[..., Any], make_family: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_plugins(make_point("toy", make_plugin(make_family(tags=("<picture>",)))))
    assert run("toy", "--only", "records", "recorded") == 1
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("FAIL toy/records") and "add it to ModelFamily.tags" in first
    assert second.startswith("-    toy/recorded") and "no parity data was given" in second
    assert last == "0 passed, 1 failed, 1 not applicable"


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert not run("yi_vl", "--only", "recorded", "--json")
    (line,) = capsys.readouterr().out.splitlines()
    outcome = json.loads(line)
    assert (outcome["family"], outcome["check"], outcome["state"]) == ("yi_vl", "recorded", "not applicable")
