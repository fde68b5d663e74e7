from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image as PilImage
from vlcore.checkpoint import VALIDATION_FILE
from vlcore.export.proof import ROWS, TOLERANCES, Trace, compare_traces, describe_proof, extend, find_questions
from vlcore.messages import Image, make_message, user, write_message
from vlcore.model import build_frontend
from vlcore.resolve import open_checkpoint

#: Logits of a prompt's end and of three tokens of an answer, the largest 8.
LOGITS = torch.eye(4, 6) * 8


def trace(ids: tuple[int, ...] = (0, 1, 2), logits: torch.Tensor = LOGITS) -> Trace:
    return Trace(ids, f"text of {ids}", logits)


def test_equal_answers_and_near_logits_pass() -> None:
    moved = LOGITS + 8e-5
    figures = compare_traces(trace(), trace(logits=moved), TOLERANCES["bfloat16"])
    assert figures["passed"] and figures["equal"] and figures["largest_logit"] == 8
    assert figures["max_difference"] == pytest.approx(8e-5, rel=0.01) and "parts_at_token" not in figures


@pytest.mark.parametrize(("one", "all_of_them", "passed"), [(0.3, 0.0, True), (0.5, 0.0, False), (0.0, 0.09, False)])
def test_logits_may_differ_by_a_share_of_the_largest_and_on_average_by_a_fifth_of_that(
    one: float, all_of_them: float, passed: bool
) -> None:
    moved = LOGITS + all_of_them
    moved[0, 5] += one
    assert compare_traces(trace(), trace(logits=moved), TOLERANCES["bfloat16"])["passed"] is passed


@pytest.mark.parametrize(("second", "passed"), [(7.5, True), (6.0, False)])
def test_answers_may_part_only_where_the_original_can_hardly_decide(second: float, passed: bool) -> None:
    logits = LOGITS.clone()
    logits[1, 3] = second
    figures = compare_traces(trace(logits=logits), trace((0, 3, 5), logits), TOLERANCES["bfloat16"])
    assert figures["passed"] is passed and not figures["equal"]
    assert figures["parts_at_token"] == 1 and figures["margin_there"] == 8 - second
    assert figures["exported_answer"] == "text of (0, 3, 5)"


def test_questions_are_the_first_validation_rows_without_their_answers(tmp_path: Path) -> None:
    rows = [[user(f"What is {number}?"), make_message("assistant", "A number.")] for number in range(ROWS + 2)]
    lines = [json.dumps({"messages": [write_message(message) for message in row]}) for row in rows]
    (tmp_path / VALIDATION_FILE).write_text("\n".join(lines) + "\n", encoding="utf8")
    source, found = find_questions(tmp_path)
    assert source == "validation rows of the training" and found == [(row[0],) for row in rows[:ROWS]]


@pytest.mark.parametrize("empty", [True, False])
def test_without_validation_rows_a_question_about_a_picture_is_made_up(empty: bool, tmp_path: Path) -> None:
    if empty:
        (tmp_path / VALIDATION_FILE).touch()
    source, found = find_questions(tmp_path)
    assert source == "a made-up question about a picture"
    assert [type(part) for part in found[0][0].content].count(Image) == 1


def test_the_figures_are_told_in_one_line() -> None:
    row = compare_traces(trace(), trace(logits=LOGITS + 0.08), TOLERANCES["bfloat16"])
    proof = {
        "rows": [row], "equal_answers": 1, "max_difference": 0.08, "mean_difference": 0.08, "tolerance": 0.05,
        "rounded_to": "bfloat16", "dtype": "float32", "source": "rows", "mean_effect_of_adapter": 0.5,
    }
    assert describe_proof(proof) == (
        "1 of 1 answers equal, logits differ by 0.08 at most and 0.08 on average (the adapter moves them by 0.5), "
        "1.00% of the largest (5.00% allowed for bfloat16), computed in float32 on rows"
    )


def test_an_answer_that_says_the_image_token_is_computed_without_a_picture_for_it(tmp_path: Path) -> None:
    from vlcore_internvl import tiny

    tiny.write_tiny(tmp_path)
    frontend = build_frontend(open_checkpoint(tmp_path))
    asked = frontend.encode([user("What is it?", [PilImage.new("RGB", (50, 40))])])
    place = frontend.media.image_token_id
    longer = extend(frontend, asked, [5, place, 7])
    assert longer.ids[-3:] == (5, frontend.tokenizer.pad_id, 7)
    assert longer.ids.count(place) == asked.ids.count(place)
