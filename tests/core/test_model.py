from __future__ import annotations

import json
from pathlib import Path

import pytest
import vlcore
from vlcore.config import InferConfig, LoadConfig
from vlcore.errors import UsageError
from vlcore.evaluate import answer_rows, choose_result_path, find_rows
from vlcore.messages import make_message, user
from vlcore.model import VLModel, build_frontend
from vlcore.resolve import resolve_model

DATA = Path(__file__).parents[1] / "parity" / "data"
MODEL = DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint"
CAT, ROCKET = DATA / "images" / "cat.png", DATA / "images" / "rocket_square.png"


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(MODEL, dtype="fp32")


def test_a_frontend_encodes_as_the_model_does_without_weights(model: VLModel) -> None:
    frontend = build_frontend(resolve_model(LoadConfig(model=str(MODEL))))
    messages = [user("What is this?", [CAT])]
    assert frontend.encode(messages).ids == model.encode(messages).ids


def test_planned_and_encoded_lengths_are_equal(model: VLModel) -> None:
    messages = [user("Compare <image> with <image>", [CAT, ROCKET]), make_message("assistant", "No.")]
    plan = model.frontend.plan(messages, train=True)
    example = model.encode(messages, train=True)
    assert len(plan) == len(example)
    assert example.pixels["pixel_values"].shape[0] == sum(sum(p.tiles) for p in plan.plans)


def test_training_ids_begin_with_the_ids_of_the_prompt(model: VLModel) -> None:
    asked = [user("What is this?", [CAT])]
    prompt = model.encode(asked).ids
    trained = model.encode([*asked, make_message("assistant", "A cat.")], train=True)
    assert trained.ids[: len(prompt)] == prompt
    assert all(label < 0 for label in trained.labels[: len(prompt)])
    assert trained.labels[len(prompt)] >= 0


def test_options_of_the_family_reach_the_pixels(model: VLModel) -> None:
    few = model.encode([user("?", [CAT])], max_num=1)
    many = model.encode([user("?", [CAT])], max_num=6)
    assert few.pixels["pixel_values"].shape[0] == 1 < many.pixels["pixel_values"].shape[0]
    with pytest.raises(UsageError, match="did you mean max_num"):
        model.encode([user("?")], maxnum=1)


def test_options_given_at_loading_hold_for_every_question() -> None:
    model = vlcore.load_model(MODEL, dtype="fp32", options={"max_num": 1})
    assert model.encode([user("?", [CAT])]).pixels["pixel_values"].shape[0] == 1


def write_rows(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf8")
    return path


def answer(model: VLModel, folder: Path, rows: Path, size: int) -> list[dict[str, object]]:
    path = folder / f"answers-{size}.jsonl"
    config = InferConfig(val_dataset=(str(rows),), result_path=str(path), infer_batch_size=size, max_new_tokens=3)
    answer_rows(model, find_rows(model, config), choose_result_path(config), config)
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def test_a_data_set_is_answered_in_order_whatever_the_batch(model: VLModel, tmp_path: Path) -> None:
    rows = write_rows(
        tmp_path, {"query": "One?", "response": "1"}, {"query": "Two, of a longer kind?"},
        {"query": "Three?", "images": [str(CAT)]},
    )
    one, all_ = answer(model, tmp_path, rows, 1), answer(model, tmp_path, rows, 3)
    assert [line["response"] for line in one] == [line["response"] for line in all_]
    assert [line["label"] for line in one] == ["1", None, None]
    assert [line["line"] for line in one] == [1, 2, 3]


def test_a_row_that_cannot_be_answered_becomes_an_error_and_the_others_are_answered(
    model: VLModel, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no image", "utf8")
    rows = write_rows(tmp_path, {"query": "One?"}, {"query": "Two?", "images": ["bad.png"]}, {"query": "Three?"})
    lines = answer(model, tmp_path, rows, 3)
    assert ["response" in line for line in lines] == [True, False, True]
    assert "bad.png" in str(lines[1]["error"])
    assert not (tmp_path / "answers-3.jsonl.part").exists()


def test_a_misspelt_setting_of_loading_names_the_near_one() -> None:
    with pytest.raises(UsageError, match="dtype"):
        vlcore.load_model(MODEL, dtyp="fp32")


def test_one_picture_needs_no_list(model: VLModel) -> None:
    assert user("What?", str(CAT)) == user("What?", [str(CAT)])
    assert model.encode([user("What?", CAT)]).ids == model.encode([user("What?", [CAT])]).ids


def test_a_loss_that_does_not_exist_is_refused(model: VLModel) -> None:
    with pytest.raises(UsageError, match="loss_on 'anwsers'"):
        model.encode([user("?"), make_message("assistant", "!")], train=True, loss_on="anwsers")  # type: ignore[arg-type]


def test_answers_go_into_the_checkpoint_or_here_but_never_into_a_release(tmp_path: Path) -> None:
    assert choose_result_path(InferConfig(ckpt_dir=str(tmp_path))).parent == tmp_path / "infer_result"
    assert choose_result_path(InferConfig(model=str(MODEL))).parent == Path("infer_result")


def test_the_options_of_a_training_hold_for_what_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"config": {"model": "m", "dataset": ["d"], "option": ["max_num=2"]}, "model": {}, "files": {}}
    (tmp_path / "sft_config.json").write_text(json.dumps(run))
    monkeypatch.setattr("vlcore.model.open_model", lambda config, adapter: config.family_options)
    assert vlcore.load_model(tmp_path) == {"max_num": "2"}
    assert vlcore.load_model("base", adapter=tmp_path) == {"max_num": "2"}
    assert vlcore.load_model(tmp_path, options={"max_num": 3}) == {"max_num": "3"}
    assert vlcore.load_model("base") == {}
