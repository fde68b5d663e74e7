"""The check of a data set: faults, counts, what becomes of long rows, warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from vlcore.doctor import check
from vlcore.doctor.check import Report, check_rows
from vlcore.doctor.findings import Finding, group_findings
from vlcore.doctor.report import draw_bars, write_report
from vlcore.doctor.settings import LookConfig, open_sources
from vlcore.doctor.settings import open_frontend as open_frontend_of
from vlcore.errors import UsageError
from vlcore.model import Frontend

OpenFrontend = Callable[[str], Frontend]
GOOD = {"query": "<image>What is it?", "response": "A cat.", "images": ["cat.png"]}
TEXT = {"query": "What is it?", "response": "A word."}


@pytest.fixture
def frontend(open_frontend: OpenFrontend) -> Frontend:
    return open_frontend("internvl2-2b")


@pytest.fixture
def examine(tmp_path: Path) -> Callable[..., Report]:
    """Checks rows of a file, with a whole and a damaged picture beside it."""
    Image.effect_noise((60, 40), 50).save(tmp_path / "cat.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "cat.png").read_bytes()[:200])
    (tmp_path / "text.png").write_text("no picture")

    def run(
        rows: list[Any], frontend: Frontend | None = None, decode: bool = False, sources: tuple[str, ...] = (),
        **settings: Any
    ) -> Report:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf8")
        config = LookConfig(dataset=sources or (str(path),), **settings)
        return check_rows(open_sources(config, frontend), frontend, config, decode)

    return run


def name(finding: Finding) -> str:
    return f"{Path(finding.source).name}:{finding.line}: {finding.field}: {finding.why}"


def test_every_faulty_row_is_named_with_file_line_and_field(examine, frontend, tmp_path) -> None:
    rows = [GOOD, {**GOOD, "images": ["gone.png"]}, "{", {**GOOD, "images": ["text.png"]}, {"query": "?"}, TEXT]
    report = examine(rows, frontend)
    faults = list(map(name, report.faults))
    assert faults[0] == f"rows.jsonl:2: images[0]: there is no file {tmp_path}/gone.png"
    assert faults[1].startswith("rows.jsonl:3: : it is not JSON")
    assert faults[2] == f"rows.jsonl:4: image {tmp_path}/text.png: it is no image that Pillow can read"
    assert faults[3] == "rows.jsonl:5: response: it is missing"
    assert (report.total.rows, report.total.sound, len(faults)) == (6, 2, 4)


def test_every_damaged_picture_of_a_row_is_a_fault(examine, frontend) -> None:
    row = {"query": "Which?", "response": "None.", "images": ["text.png", "cat.png", "gone.txt"]}
    row["images"][2] = "text.png"
    assert len(examine([row], frontend).faults) == 2


def test_without_a_model_form_is_checked_and_no_tokens_are_counted(examine) -> None:
    marked = {**GOOD, "query": "<ref-object>?", "response": "<bbox>",
              "objects": [{"caption": "cat", "bbox": [1, 2, 3, 4]}]}
    report = examine([GOOD, marked, {**GOOD, "images": ["text.png"]}])
    assert report.model == "" and not report.total.tokens and not report.long
    assert [fault.line for fault in report.faults] == [3]
    assert any("form only" in line for line in write_report(report))


def test_counts_are_those_of_the_plans(examine, frontend) -> None:
    report = examine([GOOD, TEXT, {"query": "?"}], frontend, loss_on="answers")
    rows = open_sources(LookConfig(dataset=(report.sources[0].name,)), frontend)
    layouts = [frontend.plan(rows[index].messages, train=True) for index in range(2)]
    tokens = report.total.tokens
    assert tokens["all"].total == sum(map(len, layouts)) and tokens["all"].max == max(map(len, layouts))
    assert tokens["media"].total == sum(plan.tokens for layout in layouts for plan in layout.plans) > 0
    assert tokens["text"].total + tokens["media"].total == tokens["all"].total
    assert (report.total.turns, report.total.images, report.total.videos) == (2, 1, 0)
    assert sum(report.total.lengths) == report.total.sound == 2


def test_weights_count_rows_as_often_and_faults_once(examine, frontend) -> None:
    once, twice = (examine([GOOD, "{"], frontend, dataset_weights=weights) for weights in ((), (2.0,)))
    assert twice.total.rows == 4 and twice.total.tokens["all"].total == 2 * once.total.tokens["all"].total
    assert len(twice.faults) == 1 and not twice.warnings


def test_a_file_given_twice_has_no_rows_that_are_the_same(examine, frontend, tmp_path) -> None:
    path = str(tmp_path / "rows.jsonl")
    report = examine([GOOD, "{"], frontend, sources=(path, f"{path}#1"))
    assert [source.rows for source in report.sources] == [2, 1] and report.total.rows == 3
    assert len(report.faults) == 1 and not report.warnings


def test_damage_behind_the_header_is_found_by_decoding_alone(examine, frontend) -> None:
    row = {**GOOD, "images": ["half.png"]}
    assert not examine([row], frontend).faults
    (fault,) = examine([row], frontend, decode=True).faults
    assert "cannot be decoded" in fault.why


def test_decoding_finds_damage_in_the_frames_of_a_video(examine, frontend, tmp_path) -> None:
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "1.png").write_bytes((tmp_path / "half.png").read_bytes())
    row = {"query": "<video>What?", "response": "A cat.", "videos": ["film"]}
    assert not examine([row], frontend).faults
    assert len(examine([row], frontend, decode=True).faults) == 1


def test_rows_that_are_there_twice_empty_answers_and_strips_are_warnings(examine, frontend, tmp_path) -> None:
    Image.new("RGB", (2100, 100)).save(tmp_path / "strip.png")
    Image.new("RGB", (2000, 100)).save(tmp_path / "wide.png")
    empty, unasked = {**TEXT, "response": " \n"}, {"messages": [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "", "loss": False},
        {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}
    rows = [GOOD, {**GOOD, "images": ["strip.png"]}, {**GOOD, "images": ["wide.png"]}, GOOD, empty, unasked, TEXT]
    report = examine(rows, frontend)
    assert list(map(name, report.warnings)) == [
        f"rows.jsonl:2: image {tmp_path}/strip.png: it is 2100x100 pixels",
        f"rows.jsonl:4: row: it is the same as {tmp_path}/rows.jsonl:1",
        "rows.jsonl:5: answer 1: it is empty",
    ]
    assert not report.faults


def talk(turns: int) -> dict[str, Any]:
    return {**TEXT, "history": [["Hm? " * 20, "Yes."]] * turns}


def test_long_rows_are_faults_under_the_rule_error(examine, frontend) -> None:
    report = examine([TEXT, talk(9)], frontend, max_length=100)
    (fault,) = report.faults
    assert fault.line == 2 and "max_length is 100" in fault.why and "--on_overflow" in fault.do
    assert not any("above --max_length" in line for line in write_report(report))


def test_long_rows_are_counted_and_left_out_under_the_rule_drop(examine, frontend) -> None:
    report = examine([TEXT, talk(9), talk(9)], frontend, max_length=100, on_overflow="drop")
    assert [(row.line, row.left) for row in report.long] == [(2, None), (3, None)]
    assert not report.faults and report.total.left_out == 2
    assert list(write_report(report))[-1] == "no faults: 1 row can be trained on, 2 are too long and left out"


def test_long_rows_are_cut_as_a_training_cuts_them(examine, frontend) -> None:
    report = examine([TEXT, talk(9)], frontend, max_length=150, on_overflow="truncate")
    (cut,) = report.long
    assert cut.left is not None and cut.left <= 150 < cut.tokens and not report.faults


def test_pictures_of_long_rows_are_shrunk(examine, frontend) -> None:
    (whole,) = examine([GOOD], frontend, max_length=0).sources
    limit = whole.tokens["all"].max - 1
    (cut,) = examine([GOOD], frontend, max_length=limit, on_overflow="shrink").long
    assert cut.left is not None and cut.left <= limit


def test_a_row_that_nothing_makes_fit_is_a_fault(examine, frontend) -> None:
    report = examine([TEXT], frontend, max_length=5, on_overflow="truncate")
    assert [fault.line for fault in report.faults] == [1] and "truncate" in report.faults[0].why


def test_findings_of_one_kind_are_grouped_and_listed_whole_on_request(examine) -> None:
    report = examine([GOOD, *({**GOOD, "images": [f"gone{n}.png"]} for n in range(7)), "{"])
    assert list(map(len, group_findings(report.faults))) == [7, 1]
    few, everything = list(write_report(report)), list(write_report(report, everything=True))
    assert "    and 4 more; --all lists every one" in few and "  7 times: there is no file …; " in "\n".join(few)
    assert sum("gone" in line for line in few) == 3 and sum("gone" in line for line in everything) == 7


def test_placement_and_unread_keys_are_told(examine, frontend) -> None:
    report = examine([{**GOOD, "query": "What?", "id": 1}], frontend)
    text = "\n".join(write_report(report))
    assert "1 of 1 rows: all at the start of the last query" in text and "id in 1" in text


def test_several_sources_are_told_apart_and_summed(examine, frontend, tmp_path) -> None:
    (tmp_path / "more.jsonl").write_text(json.dumps(TEXT))
    report = examine([GOOD], frontend, sources=(str(tmp_path / "rows.jsonl"), str(tmp_path / "more.jsonl")))
    assert [source.images for source in report.sources] == [1, 0] and report.total.rows == 2
    heads = [line for line in write_report(report) if ": 1 row" in line or ": 2 rows" in line]
    assert [Path(head.split(":")[0]).name for head in heads[:3]] == ["rows.jsonl", "more.jsonl", "all"]


def test_bars_are_drawn_on_request(examine, frontend) -> None:
    report = examine([GOOD, TEXT], frontend)
    assert any("█" in line for line in write_report(report, bars=True))
    assert not any("█" in line for line in write_report(report))
    assert draw_bars([0, 1, 100]) == " ▁█"


def test_every_key_of_the_document_is_explained(examine, frontend) -> None:
    page = (Path(__file__).parents[2] / "docs" / "looking.md").read_text("utf8")
    plain = examine([GOOD, "{"], frontend, max_length=1, on_overflow="drop").write()
    keys = {*plain, *plain["total"], *plain["total"]["tokens"], *plain["total"]["tokens"]["all"]}
    keys |= {*plain["faults"][0], *plain["long"][0]}
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_processes_find_what_one_finds(examine, frontend, monkeypatch) -> None:
    rows = [GOOD, "{", {**GOOD, "images": ["text.png"]}, talk(9), GOOD] * 70
    alone = examine(rows, frontend, max_length=100)
    monkeypatch.setattr("vlcore.spread.MANY", 1)
    monkeypatch.setattr("vlcore.spread.count_cores", lambda: 2)
    assert examine(rows, frontend, max_length=100) == alone


def test_no_source_and_weights_without_sources_are_refused() -> None:
    with pytest.raises(UsageError, match="which rows"):
        LookConfig().add_sources(())
    with pytest.raises(UsageError, match="dataset_weights"):
        LookConfig(dataset_weights=(1.0, 2.0)).add_sources(["a.jsonl"])
    assert LookConfig(dataset=("b",)).add_sources(["a"]).dataset == ("a", "b")


def test_percentiles_are_numbers_of_rows() -> None:
    import numpy

    spread = check.measure(numpy.arange(1, 101))
    assert (spread.p50, spread.p95, spread.max, spread.total) == (51, 96, 100, 5050)


def test_an_adapter_is_checked_with_its_base(open_frontend, tmp_path) -> None:
    base = open_frontend("internvl2-2b").checkpoint.folder
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    opened = open_frontend_of(LookConfig(model=str(tmp_path), model_type="internvl2-2b"))
    assert opened is not None and opened.checkpoint.folder.samefile(base)


def test_no_model_has_no_frontend() -> None:
    assert open_frontend_of(LookConfig()) is None
