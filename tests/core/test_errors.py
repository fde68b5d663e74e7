import pickle

import pytest
from vlcore.errors import DataError, ExtraMissing, VlcoreError, first_line, suggest_near


def test_error_says_what_was_given_why_and_what_to_do():
    error = VlcoreError("x", "it is odd", "make it even")
    assert str(error) == "x: it is odd; make it even"
    assert (error.given, error.why, error.do) == ("x", "it is odd", "make it even")


def test_exit_codes_differ():
    kinds = [kind for kind in VlcoreError.__subclasses__() if kind.__module__ == "vlcore.errors"]
    assert len({kind.exit_code for kind in kinds} | {VlcoreError.exit_code}) == len(kinds) + 1


def test_missing_extra_names_its_installation():
    assert str(ExtraMissing("video", "av", "video")).endswith("run: pip install 'vlcore[video]'")


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("qwen-v", ["qwen-vl", "yi-vl"], "did you mean qwen-vl?"),
        ("zzz", ["b", "a"], "known are a, b"),
        ("zzz", [], "there are none"),
        ("zzz", "abcdefghijklmn", "known are a, b, c, d, e, f, g, h, i, j, k, l and 2 more"),
    ],
)
def test_near_names_are_given_else_the_known_ones(name, known, said):
    assert suggest_near(name, known) == said


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo", "one"),
        ("Error(s) in loading:\n\tsize mismatch for a", "Error(s) in loading: size mismatch for a"),
        ("nothing follows:", "nothing follows:"),
        ("", "ValueError"),
    ],
)
def test_what_a_library_says_fits_in_one_line(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line


@pytest.mark.parametrize("error", [DataError("a", "b", "c"), ExtraMissing("a video", "PyAV", "video")])
def test_an_error_comes_whole_from_another_process(error: VlcoreError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.given, again.why, again.do) == (str(error), error.given, error.why, error.do)
