"""Metrics: values worked by hand from the definitions, edges, figures and their intervals, the hook."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from vlcore.boxes import Grounding, read_marks
from vlcore.errors import ExtraMissing, PluginError, UsageError
from vlcore.metrics import (
    Facts,
    Figure,
    Metric,
    RowScores,
    Score,
    choose_metrics,
    measure,
    measure_row,
    summarise,
    write_figures,
)
from vlcore.metrics.builtin import METRICS
from vlcore.metrics.count import read_number
from vlcore.metrics.found import find_overlap
from vlcore.metrics.texts import split_tokens
from vlcore.metrics.vqa import normalise

BY_NAME = {metric.name: metric for metric in METRICS}
MARKS = Facts(grounding=Grounding(read=read_marks, write_box=str, write_label=str))


def score(name: str, answer: str, *labels: str) -> Score | None:
    return BY_NAME[name].score(answer, labels, MARKS)


def value(name: str, answer: str, *labels: str) -> float:
    found = score(name, answer, *labels)
    assert found is not None
    return found.value


@pytest.mark.parametrize(("answer", "label", "equal"), [
    ("A Cat.", "a cat", True), ("  a\n cat ", "a cat", True), ("Ｃat", "cat", True), ("一只猫。", "一只猫", True),
    ("STRASSE", "straße", True), ("cafe\u0301", "caf\u00e9", True), ("", "", True), ("", "cat", False),
    ("cat", "the cat", False), ("cat!", "cat", False), ("3.5", "3", False),
])
def test_exact_match_compares_normalised_texts(answer, label, equal):
    assert value("exact_match", answer, label) == equal


def test_exact_match_takes_any_of_several_labels():
    assert value("exact_match", "feline", "cat", "Feline.") == 1


@pytest.mark.parametrize(("answer", "label", "edits", "characters"), [
    ("kitten", "sitting", 3, 7), ("", "abc", 3, 3), ("abc", "abc", 0, 3), (" abc\n", "abc", 0, 3), ("ABC", "abc", 3, 3),
    ("我爱猫", "我爱狗", 1, 3), ("e\u0301", "é", 0, 1), ("🐱", "🐶", 1, 1), ("", "", 0, 0), ("ab", "", 2, 0),
])
def test_cer_counts_edits_over_the_characters_of_the_label(answer, label, edits, characters):
    assert score("cer", answer, label) == Score(edits, characters)


def test_cer_of_a_row_ends_at_one_and_that_of_a_corpus_counts_every_edit():
    (metric,) = choose_metrics(["cer"])
    figures = measure([metric], ["aaaaaa", "kitten"], ["b", "sitting"])
    assert value("cer", "aaaaaa", "b") == 1
    assert figures.metrics["cer"].value == (6 + 3) / (1 + 7)
    assert not metric.greater_is_better


def test_cer_holds_the_answer_against_the_label_with_the_lowest_rate():
    assert score("cer", "abcd", "xyz", "abcde", "") == Score(1, 5)


@pytest.mark.parametrize(("answer", "labels", "expected"), [
    # The distance over the longer length: 1 of 5, 3 of 7, 2 of 4 (at the threshold, so nothing), 1 of 1.
    ("hallo", ["hello"], 0.8), ("kitten", ["sitting"], 4 / 7), ("abxx", ["abcd"], 0.0), ("a", ["b"], 0.0),
    ("HELLO", ["hello"], 1.0), ("hallo", ["world", "hello"], 0.8), ("", ["hello"], 0.0), ("", [""], 1.0),
    ("two  words", ["two words"], 1.0), ("我爱猫", ["我爱狗"], 2 / 3),
])
def test_anls_is_the_similarity_to_the_nearest_label_from_half_the_length_on(answer, labels, expected):
    assert value("anls", answer, *labels) == pytest.approx(expected)


@pytest.mark.parametrize(("matching", "expected"), [
    # With m of 10 matching, m sets have m - 1 matches and the others m.
    (0, 0.0), (1, 9 * (1 / 3) / 10), (2, (2 * (1 / 3) + 8 * (2 / 3)) / 10), (3, (3 * (2 / 3) + 7) / 10), (4, 1.0),
    (10, 1.0),
])
def test_vqa_accuracy_averages_over_the_labels_that_leave_one_out(matching, expected):
    labels = ["red"] * matching + ["blue"] * (10 - matching)
    assert value("vqa_accuracy", "Red", *labels) == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), [
    ("A dog", "dog"), ("the two dogs.", "2 dogs"), ("None", "0"), ("3.5", "3.5"), ("1,000", "1000"),
    ("red,blue", "red blue"), ("red, blue", "red blue"), ("isnt", "isn't"), ("couldn'tve", "couldn't've"),
    ("t-shirt", "t shirt"), ("it's", "it's"),
    ("10:30", "10:30"), ("yes!", "yes"), ("", ""), ("an", ""), ("line\nbreak", "line break"), ("eleven", "eleven"),
    # A mark beside a space anywhere goes everywhere without a trace.
    ("b-c - d", "bc d"),
])
def test_vqa_answers_are_normalised_as_the_challenge_does(text, expected):
    assert normalise(text) == expected


def test_vqa_accuracy_with_one_label_is_normalised_exact_match():
    assert value("vqa_accuracy", "Two dogs.", "2 dogs") == 1
    assert value("vqa_accuracy", "", "2 dogs") == 0
    assert value("vqa_accuracy", "cat", "dog", "the cat") == 1


@pytest.mark.parametrize(("answer", "label", "expected"), [
    # Lin's examples: "police the gunman" is common, then "the gunman".
    ("police kill the gunman", "police killed the gunman", 0.75),
    ("the gunman kill police", "police killed the gunman", 0.5),
    ("a cat", "a black cat", 2 * 2 / 5), ("我有猫", "我有一只猫", 2 * 3 / 8),
    ("", "a cat", 0.0), ("!", "?", 1.0), ("!", "a", 0.0),
])
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(answer, label, expected):
    assert value("rouge_l", answer, label) == pytest.approx(expected)


def test_rouge_l_takes_the_best_label_and_characters_of_chinese_and_japanese_for_tokens():
    assert value("rouge_l", "a dog", "a cat", "A dog!") == 1
    assert split_tokens("Two 猫s, 3rd_カメラ!") == ["two", "猫", "s", "3rd", "カ", "メ", "ラ"]


def test_overlap_is_intersection_over_union():
    assert find_overlap((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert find_overlap((0, 0, 1, 1), (1, 0, 2, 1)) == find_overlap((0, 0, 1, 1), (3, 3, 4, 4)) == 0
    assert find_overlap((1, 1, 1, 1), (1, 1, 1, 1)) == 1 and find_overlap((1, 1, 1, 1), (2, 2, 2, 2)) == 0


def box(left: int, top: int, right: int, bottom: int) -> str:
    return f"<box>({left},{top}),({right},{bottom})</box>"


def test_boxes_of_a_label_are_found_from_an_overlap_of_a_half_on():
    label = box(0, 0, 100, 100) + box(500, 500, 600, 600)
    assert score("box_iou@0.5", box(0, 0, 50, 100), label) == Score(1.0, 2)
    assert score("box_iou@0.5", box(0, 0, 49, 100), label) == Score(0.0, 2)
    found = score("box_iou", box(0, 0, 50, 100) + box(500, 500, 600, 600), label)
    assert found is not None and found.points == pytest.approx(1.5) and found.weight == 2


def test_a_box_has_one_partner_and_the_largest_overlap_comes_first():
    twice = box(0, 0, 100, 100) * 2
    assert score("box_iou@0.5", box(0, 0, 100, 100), twice) == Score(1.0, 2)
    # The first box of the answer overlaps both; the second one is the better partner of the first label.
    answer, label = box(0, 0, 90, 100) + box(0, 0, 100, 100), box(0, 0, 100, 100) + box(0, 0, 80, 100)
    assert value("box_iou", answer, label) == pytest.approx((1 + 80 / 90) / 2)


def test_corners_may_be_in_any_order_and_quadrilaterals_count_as_the_rectangle_around_them():
    assert value("box_iou", box(100, 100, 0, 0), box(0, 0, 100, 100)) == 1
    assert value("box_iou", "<quad>(50,0),(100,50),(50,100),(0,50)</quad>", box(0, 0, 100, 100)) == 1


def test_an_answer_without_boxes_finds_none_and_a_label_without_boxes_asks_for_none():
    assert score("box_iou@0.5", "there", box(0, 0, 9, 9)) == Score(0, 1)
    assert score("box_iou", box(0, 0, 9, 9), "there") is None
    assert score("box_iou", box(0, 0, 9, 9), "there", box(0, 0, 9, 9)) == Score(1.0, 1)
    assert BY_NAME["box_iou"].score("", [""], Facts()) is None


@pytest.mark.parametrize(("text", "number"), [
    ("3", 3), ("There are 12 cats and 4 dogs.", 12), ("two", 2), ("Twenty-one.", 21), ("ninety nine", 99),
    ("thirty", 30), ("seventeen", 17), ("1,200 people", 1200), ("0", 0), ("３只", 3), ("有3只猫", 3), ("三只猫", 3),
    ("两个", 2), ("十", 10), ("十二", 12), ("九十九", 99), ("二十", 20), ("weight 3.5, count 2", 2), ("B12 holds 7", 7),
    ("3.", 3), ("12, 13", 12),
    ("many", None), ("", None), ("3.5", None), ("someone", None), ("nineteenth", None), ("二十 3", 20),
])
def test_the_first_whole_number_is_read_in_digits_and_words(text, number):
    assert read_number(text) == number


def test_counts_are_right_when_the_first_numbers_agree():
    assert value("count_accuracy", "I see three cats.", "3") == 1
    assert value("count_accuracy", "I see cats.", "3") == 0
    assert value("count_accuracy", "4", "3", "four") == 1
    assert score("count_accuracy", "4", "many") is None


@pytest.mark.parametrize("points", [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_a_score_of_no_finite_numbers_is_refused(points):
    with pytest.raises(ValueError, match="is no score"):
        Score(*points)


def test_figures_leave_out_rows_without_a_label_and_count_them():
    figures = measure([BY_NAME["exact_match"]], ["a", "b", "c", "d"], ["a", None, [], "x"])
    assert (figures.rows, figures.unlabelled, figures.failed) == (4, 2, 0)
    assert (figures.metrics["exact_match"].value, figures.metrics["exact_match"].rows) == (0.5, 2)


def test_a_row_that_was_not_answered_has_the_worst_score_even_where_an_empty_answer_is_right():
    metrics = [BY_NAME["exact_match"], BY_NAME["cer"]]
    figures = measure(metrics, [None, "ab", None], ["", "ab", None])
    assert (figures.failed, figures.unlabelled) == (2, 1)
    assert figures.metrics["exact_match"].value == 0.5
    assert measure_row(metrics, None, "abcd", Facts()).values == {"exact_match": 0.0, "cer": 1.0}


def test_rows_that_a_metric_cannot_be_asked_of_are_not_in_its_figure():
    metric = BY_NAME["count_accuracy"]
    figure = measure([metric], ["3", "3"], ["3", "some"]).metrics["count_accuracy"]
    assert (figure.value, figure.rows) == (1.0, 1)
    none = measure([metric], ["3"], ["some"]).metrics["count_accuracy"]
    assert (none.value, none.low, none.high, none.rows) == (None, None, None, 0)


def test_the_interval_is_that_of_the_share_and_the_same_each_time():
    answers, labels = ["a"] * 50 + ["b"] * 50, ["a"] * 100
    first, again = (measure([BY_NAME["exact_match"]], answers, labels).metrics["exact_match"] for _ in range(2))
    assert first == again and first.value == 0.5
    # The normal approximation is 0.5 -+ 1.96 * sqrt(0.25 / 100) = 0.402 and 0.598.
    assert first.low == pytest.approx(0.402, abs=0.021) and first.high == pytest.approx(0.598, abs=0.021)


def test_the_interval_of_equal_rows_is_a_point():
    figure = measure([BY_NAME["anls"]], ["hallo"] * 3, ["hello"] * 3).metrics["anls"]
    assert figure.low == figure.high == pytest.approx(0.8)


def test_rows_gathered_from_several_processes_have_the_figures_of_one():
    metrics, answers, labels = list(METRICS), ["a", "two", box(0, 0, 9, 9)], ["a", "2", box(0, 0, 9, 9)]
    whole = measure(metrics, answers, labels, MARKS)
    rows: list[RowScores] = []
    for answer, label in zip(answers, labels, strict=True):
        rows.append(measure_row(metrics, answer, label, MARKS))
    assert summarise(metrics, rows) == whole
    assert write_figures(whole)["metrics"]["cer"]["greater_is_better"] is False


def test_a_figure_beats_another_one_the_way_its_metric_runs():
    def make(value: float | None, greater: bool) -> Figure:
        return Figure(value=value, low=value, high=value, rows=1, greater_is_better=greater)

    assert make(0.5, True).beats(make(0.4, True)) and make(0.4, False).beats(make(0.5, False))
    assert not make(0.5, True).beats(make(0.5, True))
    assert make(0.0, True).beats(None) and make(0.0, True).beats(make(None, True))
    assert not make(None, True).beats(None)


def test_answers_without_as_many_labels_are_refused():
    with pytest.raises(UsageError, match="2 answers and 1 labels"):
        measure([BY_NAME["anls"]], ["a", "b"], ["a"])


def test_metrics_of_boxes_are_refused_for_a_family_that_writes_none():
    with pytest.raises(UsageError, match=r"metric box_iou: .*write no boxes"):
        measure([BY_NAME["box_iou"], BY_NAME["anls"]], ["a"], ["a"])


def test_a_metric_is_chosen_once_in_the_order_of_the_names():
    names = ["rouge_l", "exact_match", "rouge_l"]
    assert [metric.name for metric in choose_metrics(names)] == ["rouge_l", "exact_match"]


def test_an_unknown_metric_names_the_near_one():
    with pytest.raises(UsageError, match=r"metric exact_macth: .*did you mean exact_match\?"):
        choose_metrics(["exact_macth"])


@pytest.mark.parametrize("name", ["cer", "anls", "rouge_l"])
def test_a_missing_package_is_said_before_the_first_row(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz", None)
    assert choose_metrics(["exact_match", "vqa_accuracy"])
    with pytest.raises(ExtraMissing, match=r"rapidfuzz.*vlcore\[metrics\]"):
        choose_metrics([name])


def make_metric(name: str) -> Metric:
    return Metric(name=name, help="Long answers.", score=lambda answer, labels, facts: Score(float(len(answer) > 3)))


def test_a_plugin_adds_metrics_to_those_of_the_core(use_plugins, make_point, make_plugin):
    plugin = make_plugin(register_metrics=lambda: [make_metric("long")])
    registry = use_plugins(make_point("toy", plugin))
    assert set(registry.metrics) == {*BY_NAME, "long"}
    (metric,) = choose_metrics(["long"])
    assert measure([metric], ["long one", "abc"], ["x", "y"]).metrics["long"].value == 0.5


def test_two_metrics_of_one_name_are_refused_with_both_distributions(use_plugins, make_point, make_plugin):
    one, two = (make_plugin(register_metrics=lambda: [make_metric("long")]) for _ in range(2))
    with pytest.raises(PluginError, match="metric long: vlcore-one 1.2.3 and vlcore-two 1.2.3 both register it"):
        use_plugins(make_point("one", one), make_point("two", two))
    core = make_plugin(register_metrics=lambda: [make_metric("CER")])
    with pytest.raises(PluginError, match="metric CER: vlcore-native 1.2.3 and vlcore-one 1.2.3 both"):
        use_plugins(make_point("one", core))


def test_a_plugin_whose_metrics_are_none_is_left_out_with_a_warning(use_plugins, make_point, make_plugin):
    with pytest.warns(UserWarning, match="vlcore-odd 1.2.3 was left out: TypeError: register_metrics gave 3"):
        registry = use_plugins(make_point("odd", make_plugin(register_metrics=lambda: [3])))
    assert set(registry.metrics) == set(BY_NAME)


def test_every_metric_of_the_core_stands_in_the_docs_and_in_the_help():
    from vlcore.config import InferConfig

    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf8")
    told = InferConfig.__dataclass_fields__["metric"].metadata["help"]
    for name in BY_NAME:
        assert f"| `{name}` |" in page and name in told
