"""The main job with the network blocked, from a release that brings code along."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from PIL import Image
from vlcore.cli import main
from vlcore_internvl.tiny import write_tiny


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 0


def test_load_infer_sft_and_merge_run_no_code_of_the_checkpoint_and_open_no_connection(
    blocked: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, mark = tmp_path / "model", tmp_path / "mark"
    model.mkdir()
    code = {"AutoConfig": "trap.Config", "AutoModel": "trap.Model", "AutoTokenizer": ["trap.Tokenizer", None]}
    write_tiny(model, tile=28, width=64, layers=1, auto_map=code)
    (model / "trap.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Config: ...\n", "utf8")
    settings = json.loads((model / "tokenizer_config.json").read_text("utf8")) | {"auto_map": code}
    (model / "tokenizer_config.json").write_text(json.dumps(settings), "utf8")
    Image.new("RGB", (28, 28), "red").save(tmp_path / "a.png")
    row = {"query": "<image>What?", "response": "Red.", "images": ["a.png"]}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 3, "utf8")

    picture, rows = tmp_path / "a.png", tmp_path / "rows.jsonl"
    run("infer", "--model", model, "--question", "<image>?", "--image_file", picture, "--max_new_tokens", 2)
    run("sft", "--model", model, "--dataset", rows, "--output_dir", tmp_path / "out", "--report_to", "none")
    (checkpoint,) = (tmp_path / "out").glob("*/v0-*/checkpoint-*")
    run("export", "--ckpt_dir", checkpoint, "--merge_lora", "true")
    merged = checkpoint.with_name(checkpoint.name + "-merged")
    run("infer", "--ckpt_dir", merged, "--load_dataset_config", "true", "--max_new_tokens", 2)
    (answers,) = (merged / "infer_result").glob("*.jsonl")
    assert len(answers.read_text("utf8").splitlines()) == 1
    assert (merged / "trap.py").read_text("utf8") == (model / "trap.py").read_text("utf8")
    assert not mark.exists()
