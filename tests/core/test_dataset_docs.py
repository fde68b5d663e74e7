"""Every example of docs/data.md is a data file that can be read."""

import re
from pathlib import Path

import pytest
from vlcore.boxes import Grounding, read_marks
from vlcore.dataset import ReadOptions, read_rows

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
GROUNDING = Grounding(read=read_marks, write_box=str, write_label=str)
EXAMPLES = re.findall(r"```(jsonl?)\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_shows_examples_of_both_kinds_of_file() -> None:
    assert {suffix for suffix, _ in EXAMPLES} == {"json", "jsonl"}


@pytest.mark.parametrize(("suffix", "text"), EXAMPLES)
def test_each_example_can_be_read(
    suffix: str, text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"rows.{suffix}"
    path.write_text(text, encoding="utf-8")
    assert read_rows(str(path), ReadOptions(check_media=False, grounding=GROUNDING))
    assert not caplog.records


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text('{"query": "Hello", "response": "Hi", "images": ["a.png"]}\n')
    code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["rows"] == read_rows("train.jsonl", ReadOptions(image_folder="pictures", check_media=False))
