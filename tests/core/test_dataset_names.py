"""What users type for a source: files, folders, registered names, hub ids; a small hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from vlcore import hub
from vlcore.cli.data_list import command
from vlcore.dataset import ReadOptions, list_registered, open_rows
from vlcore.dataset.names import Name, parse_name
from vlcore.errors import DataError, ExtraMissing, PluginError, UsageError
from vlcore.family import DatasetRecord
from vlcore.messages import Image

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"train.jsonl": b'{"query": "a", "response": "b"}\n{"query": "c", "response": "d"}\n',
         "validation.jsonl": b'{"query": "e", "response": "f"}\n'}
ROW = '{"query": "a", "response": "b"}'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert_sign(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"query": "Which sign?", "response": row["label"].upper()}


SIGNS = DatasetRecord(name="signs", huggingface="toy/signs-hf", modelscope="toy/signs", subset="en", split="dev",
                      convert=convert_sign)


# Spelling.


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        ("coco-en#20", Name("coco-en", "", "coco-en", number=20)),
        ("HF::owner/name", Name("HF::owner/name", "HF", "owner/name")),
        ("ms::owner/name:en", Name("ms::owner/name:en", "MS", "owner/name", "en")),
        ("owner/name::dev#1", Name("owner/name::dev", "", "owner/name", "", "dev", 1)),
        ("HF::o/n:en:train+test", Name("HF::o/n:en:train+test", "HF", "o/n", "en", "train+test")),
        ("HF::o/n::train[:10%]", Name("HF::o/n::train[:10%]", "HF", "o/n", "", "train[:10%]")),
    ],
)
def test_a_source_is_taken_apart(typed: str, parsed: Name) -> None:
    assert parse_name(typed) == parsed


@pytest.mark.parametrize("name", ["a#3.jsonl", "a#3", "a:b:c:d"])
def test_what_is_there_under_the_whole_name_is_just_that(name: str) -> None:
    Path(name).mkdir()
    assert parse_name(name) == Name(name, "", name)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("a.jsonl:en", "a file has no subsets or splits"),
        ("a.txt", "no .json, .jsonl, .parquet or .arrow file"),
        ("gone/a.parquet", "there is no such file"),
        ("coco-en-mni", "did you mean coco-en-mini"),
        ("./owner/name", "neither a file or folder, nor a registered name or hub id"),
    ],
)
def test_what_cannot_be_meant_is_said(typed: str, said: str) -> None:
    Path("a.jsonl").write_text(ROW)
    Path("a.txt").write_text(ROW)
    with pytest.raises(UsageError) as caught:
        open_rows([typed])
    assert said in str(caught.value)


# Registered names.


@pytest.fixture
def hub_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """ModelScope gives this folder whatever it is asked for; what it was asked for."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    asked: list[tuple[str, str]] = []
    (folder / "downloaded").mkdir()
    monkeypatch.setattr(hub, "download_dataset", lambda *given: asked.append(given) or folder / "downloaded")
    return asked


def test_a_registered_name_is_downloaded_and_its_rows_converted(
    hub_folder: list[tuple[str, str]], folder: Path, use_plugins: Any, make_plugin: Any, make_point: Any
) -> None:
    use_plugins(make_point("toy", make_plugin(register_datasets=lambda: [SIGNS])))
    config = "---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: dev, path: en.jsonl}\n---\n"
    (folder / "downloaded" / "README.md").write_text(config)
    (folder / "downloaded" / "en.jsonl").write_text('{"label": "stop"}\n{"label": "turn"}\n{"label": null}')
    rows = open_rows(["Signs"], token="t")
    assert hub_folder == [("toy/signs", "t")]
    assert [rows[i].messages[1].text for i in range(2)] == ["STOP", "TURN"]
    assert len(open_rows(["signs#2"])) == 2
    with pytest.raises(DataError, match=r"/dev:3: row: data set signs has other rows than expected \(KeyError"):
        rows[2]


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("coco-en-mini", "Picture 1:<image>\nplease describe the image.", 1),
        ("coco-en-2-mini", "please describe the image.", 1),
        ("coco-en", "Picture 1:<image>\nplease describe the image.", 2),
        ("coco-en-2", "please describe the image.", 2),
    ],
)
def test_captions_of_coco_are_rows(
    hub_folder: list[tuple[str, str]], folder: Path, name: str, text: str, count: int
) -> None:
    import datasets

    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"png", "path": "1.png"}], "caption": ["A cat.&&A grey cat."], "id": [3]}
    ).cast_column("image", datasets.Image())
    home = folder / "downloaded"
    (home / "README.md").write_text(
        "---\nconfigs:\n- config_name: coco_2014_caption\n  data_files:\n"
        "  - {split: train, path: t.parquet}\n  - {split: validation, path: v.parquet}\n---\n")
    table.to_parquet(home / "t.parquet")
    table.to_parquet(home / "v.parquet")
    rows = open_rows([name], ReadOptions(train=False))
    assert hub_folder == [("modelscope/coco_2014_caption", "")] and len(rows) == count
    question, answer = rows[0].messages
    assert (question.text, question.media, answer.text) == (text, (Image(b"png"),), "A cat.")


def test_a_name_that_one_hub_lacks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_HF", "1")
    with pytest.raises(UsageError, match="coco-en-mini: it is registered for ModelScope alone; unset USE_HF"):
        open_rows(["coco-en-mini"])


def test_a_record_without_a_hub_is_refused() -> None:
    with pytest.raises(UsageError, match="dataset a: it names no hub"):
        DatasetRecord(name="a")


def test_the_core_registers_the_names_of_the_documents() -> None:
    assert {"coco-en", "coco-en-mini", "coco-en-2", "coco-en-2-mini"} <= {record.name for record in list_registered()}


def test_registered_names_are_listed() -> None:
    table = CliRunner().invoke(command, [], obj=None).output.splitlines()
    assert table[0].split() == ["name", "holds", "huggingface", "modelscope", "split", "plugin"]
    listed = {found["name"]: found for found in json.loads(CliRunner().invoke(command, ["--json"]).output)}
    assert listed["coco-en-mini"]["split"] == "validation" and listed["coco-en-mini"]["plugin"] == "vlcore"
    assert len(table) == len(listed) + 1


def test_two_data_sets_of_one_name_name_both_distributions(use_plugins: Any, make_plugin: Any, make_point: Any) -> None:
    one, two = (make_plugin(register_datasets=lambda: [SIGNS]) for _ in range(2))
    with pytest.raises(PluginError, match=r"dataset signs: vlcore-a 1\.2\.3 and vlcore-b 1\.2\.3 both register it"):
        use_plugins(make_point("a", one), make_point("b", two))


def test_a_plugin_that_registers_other_things_is_left_out(use_plugins: Any, make_plugin: Any, make_point: Any) -> None:
    with pytest.warns(UserWarning, match="register_datasets gave 'signs', which is no DatasetRecord"):
        registry = use_plugins(make_point("a", make_plugin(register_datasets=lambda: ["signs"])))
    assert not registry.manager.has_plugin("a") and "coco-en" in {record.name for record in list_registered()}


# Hubs.


class Hub(BaseHTTPRequestHandler):
    """The routes of a hub that holds one data set, toy/rows."""

    def do_GET(self) -> None:
        path, name = self.path.partition("?")[0], self.path.rpartition("/")[2].partition("?")[0]
        if path == "/api/datasets/toy/rows" or path.startswith("/api/datasets/toy/rows/revision/"):
            found: Any = {"id": "toy/rows", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            self.reply(200, json.dumps(found).encode())
        elif path.startswith("/api/datasets/toy/rows/tree/"):
            found = [{"type": "file", "path": k, "size": len(v), "oid": COMMIT} for k, v in FILES.items()]
            self.reply(200, json.dumps(found).encode())
        elif path.startswith("/datasets/toy/rows/resolve/") and name in FILES:
            self.reply(200, FILES[name])
        else:
            code = "EntryNotFound" if "/toy/rows/" in path else "RepoNotFound"
            self.reply(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not found"})

    do_HEAD = do_GET

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        tag = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        plain = {"Content-Type": "application/json", "Content-Length": str(len(body)), "ETag": f'"{tag}"'}
        self.send_response(status)
        for name, value in (plain | {"X-Repo-Commit": COMMIT} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., list[str]]]:
    """Opens sources in a fresh interpreter, for the libraries read their settings when they are imported."""
    pytest.importorskip("datasets")
    code = (
        "import sys\nfrom vlcore.dataset import open_rows\n"
        "for source in sys.argv[1:]:\n"
        "    try:\n        print([(str(row), row.messages[0].text) for row in open_rows([source])])\n"
        "    except Exception as error:\n        print(error)\n"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def open_sources(*sources: str, **settings: str) -> list[str]:
            here = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "NO_PROXY": "127.0.0.1"}
            environment = os.environ | here | {"HF_HOME": str(folder / "cache")} | settings
            ran = subprocess.run([sys.executable, "-c", code, *sources], capture_output=True, text=True,
                                 env=environment, check=True)
            return ran.stdout.splitlines()

        yield open_sources
        server.shutdown()
        thread.join()


def test_a_data_set_is_downloaded_once_and_found_offline_afterwards(run: Callable[..., list[str]]) -> None:
    found = run("HF::toy/rows", "HF::toy/rows::validation", "HF::toy/rows#1", "toy/rows", USE_HF="1")
    assert found[0] == "[('HF::toy/rows:1', 'a'), ('HF::toy/rows:2', 'c')]"
    assert found[1] == "[('HF::toy/rows:1', 'e')]" and found[2].count("rows:") == 1 and found[3] == found[0]
    assert run("HF::toy/rows", HF_HUB_OFFLINE="1") == found[:1]


def test_a_data_set_that_is_not_there_is_one_line_with_near_names(run: Callable[..., list[str]]) -> None:
    gone, near, split = run("HF::toy/gone", "HF::toy/coco-en-mni", "HF::toy/rows::dev")
    assert gone.startswith("dataset HF::toy/gone: it cannot be read (Dataset 'toy/gone' doesn't exist on the Hub")
    assert near.endswith("did you mean coco-en-mini or coco-en-2-mini or coco-en-2?") and not gone.endswith("?")
    assert 'Unknown split "dev". Should be one of' in split


def test_modelscope_is_asked_unless_hugging_face_is(hub_folder: list[tuple[str, str]], folder: Path) -> None:
    for name, content in FILES.items():
        (folder / "downloaded" / name).write_bytes(content)
    assert [len(open_rows([source])) for source in ("toy/rows", "MS::toy/rows::validation")] == [2, 1]
    assert hub_folder == [("toy/rows", "")] * 2


def test_missing_modelscope_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub.api", None)
    with pytest.raises(ExtraMissing, match=r"dataset toy/rows from ModelScope.*vlcore\[modelscope\]"):
        open_rows(["MS::toy/rows"])
