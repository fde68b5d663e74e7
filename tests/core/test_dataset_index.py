"""Where rows begin in a file: any line ends, any blanks, lists cut anywhere; faults named by line."""

import json
import random
from pathlib import Path

import pytest
from vlcore.dataset import index
from vlcore.dataset.files import FileRecords
from vlcore.errors import DataError

ROW = '{"query": "a", "response": "b"}'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path


@pytest.fixture(params=[1, 2, 7, 4096])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in pieces of this many bytes."""
    monkeypatch.setattr(index, "_CHUNK", request.param)


def open_file(content: str | bytes, name: str = "a.jsonl") -> FileRecords:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return FileRecords(Path(name))


def read_all(records: FileRecords) -> list[tuple[int, object]]:
    return [(records[i].position.line, records[i].data["n"]) for i in range(len(records))]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('{"n": 0}\n{"n": 1}\n', [1, 2]),
        ('{"n": 0}\n{"n": 1}', [1, 2]),
        ('\ufeff{"n": 0}\r\n\r\n  {"n": 1}\r\n', [1, 3]),
        ('\n\n \t\n{"n": 0}\n\n{"n": 1}\n \n', [4, 6]),
        (' {"n": 0} \n\t{"n": 1}\t', [1, 2]),
    ],
)
def test_lines_are_found_with_any_ends_and_blanks(text: str, lines: list[int]) -> None:
    assert read_all(open_file(text)) == list(zip(lines, range(2), strict=True))


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('[{"n": 0}, {"n": 1}]', [1, 1]),
        ('\ufeff [\n{"n":\n 0}\n,\r\n{"n": 1} ] \n', [2, 5]),
        ('[{"n": 0, "t": "]},{[\\"\\\\"},\n{"n": 1, "t": "\u2028 \u00e9 \U0001f600"}]', [1, 2]),
    ],
)
def test_elements_of_a_list_are_found_wherever_they_are_cut(text: str, lines: list[int]) -> None:
    assert read_all(open_file(text, "a.json")) == list(zip(lines, range(2), strict=True))


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_gives_the_same_rows_as_the_json_library(indent: int | None) -> None:
    chance = random.Random(0)
    rows = [{"n": n, "t": "".join(chance.choices('ab\\"[]{},é\n', k=chance.randrange(40)))} for n in range(60)]
    records = open_file(json.dumps(rows, indent=indent, ensure_ascii=False), "a.json")
    assert [records[i].data for i in range(len(records))] == rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"query": "\xff"}', "not UTF-8 text (invalid start byte, byte 12)"),
        (b'{"query": ' + b"1" * 5000 + b"}", "a number of too many digits"),
        (b'{"query": "\\ud83d"}', "half a surrogate pair"),
        (b"[1]", "a list, not an object"),
        (b"null", "null, not an object"),
    ],
)
def test_a_bad_row_is_a_fault_of_its_own_when_it_is_read(name: str, bad: bytes, why: str) -> None:
    rows = [ROW.encode(), bad, ROW.encode()]
    joined = b"[" + b",\n".join(rows) + b"]" if name == "a.json" else b"\n".join(rows)
    records = open_file(joined, name)
    assert len(records) == 3 and records[2].data == json.loads(ROW)
    with pytest.raises(DataError) as caught:
        records[1]
    assert caught.value.given.startswith(f"{name}:2") and why in caught.value.why


def test_rows_behind_a_line_that_is_not_json_are_read() -> None:
    records = open_file(f"{ROW}\nnonsense\n" + "[" * 100_000 + f"\n{ROW}\n")
    assert records[3].position.line == 4
    with pytest.raises(DataError, match=r"a\.jsonl:2: it is not JSON \(Expecting value, column 1\)"):
        records[1]
    with pytest.raises(DataError, match=r"a\.jsonl:3: it is nested too deeply"):
        records[2]


def test_a_list_nested_too_deeply_names_its_line() -> None:
    with pytest.raises(DataError, match=r"a\.json:2: it is nested too deeply"):
        open_file(f"[{ROW},\n" + "[" * 100_000 + "]" * 100_000 + "]", "a.json")


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("text", "given", "why"),
    [
        ('[{"a": "é",}]', "a.json:1", "column 12"),
        ('[{"a": 1},\n {"a": "é", b}]', "a.json:2", "Expecting property name"),
        ('[{"a": 1},\n {"a": "x}]', "a.json:2", "Unterminated string"),
        ('[{"a": 1},\n {"a": tru', "a.json:2", "Expecting value"),
        ('[{"a": 1}] x', "a.json:1", "Extra data"),
    ],
)
def test_a_list_that_is_not_json_names_line_and_reason(text: str, given: str, why: str) -> None:
    with pytest.raises(DataError) as caught:
        open_file(text, "a.json")
    assert caught.value.given == given
    assert why in caught.value.why or "byte" in caught.value.why


@pytest.mark.parametrize("content", [ROW.encode("utf-16"), b"PK\x03\x04\x00\x00", b"\x00"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_that_is_no_text_is_refused_as_a_whole(content: bytes, name: str) -> None:
    with pytest.raises(DataError) as caught:
        open_file(content, name)
    assert (caught.value.given, caught.value.why) == (name, "it is not UTF-8 text")


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.jsonl", "\ufeff \n\n"), ("a.json", " [ ] ")])
def test_a_file_without_rows_is_refused(name: str, text: str) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        open_file(text, name)


def test_a_file_that_changes_while_it_is_used_is_refused() -> None:
    records = open_file(f"{ROW}\n{ROW}\n")
    Path("a.jsonl").write_text(f"\n{ROW}\n")
    with pytest.raises(DataError, match=r"a\.jsonl: it was changed after it was opened"):
        records[1]


def test_small_files_leave_nothing_behind(folder: Path) -> None:
    open_file(ROW)
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_large_file_is_not_searched_again(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SMALL", 0)
    text = f"[{ROW},\n{ROW}]" if name == "a.json" else f"{ROW}\n{ROW}"
    first = open_file(text, name)
    monkeypatch.setattr(index, "_scan", None)
    again = FileRecords(Path(name))
    assert [again[i] for i in range(2)] == [first[i] for i in range(2)]
    (kept,) = (folder / ".vlcore").iterdir()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(index, "SMALL", 0)
    kept.write_bytes(b"damaged")
    assert FileRecords(Path(name))[1] == first[1]
    assert open_file(text.replace("\n", "\n\n"), name)[1].position.line == 3
