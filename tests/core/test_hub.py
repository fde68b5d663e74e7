"""Downloads, from a small hub on this machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from vlcore import hub
from vlcore.errors import ExtraMissing, ModelNotFound
from vlcore.family import ModelRecord

FILES = {"config.json": b'{"model_type": "toy"}', "model.safetensors": b"weights"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The routes of a hub that hold one model, toy/tiny."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2].partition("?")[0]
        if self.path.startswith("/api/models/toy/tiny/revision/"):
            entries = [{"rfilename": name} for name in FILES]
            self.reply(200, json.dumps({"id": "toy/tiny", "sha": COMMIT, "siblings": entries}).encode())
        elif self.path.startswith("/api/models/toy/tiny/tree/"):
            files = [{"type": "file", "path": k, "size": len(v), "oid": COMMIT} for k, v in FILES.items()]
            self.reply(200, json.dumps(files).encode())
        elif self.path.startswith("/toy/tiny/resolve/") and name in FILES:
            self.reply(200, FILES[name])
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

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
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(code, tmp_path, port):
    """A fresh interpreter, for the hub's library reads its settings when it is imported."""
    hub_settings = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path / "cache")}
    quiet = {"USE_HF": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
    environment = os.environ | hub_settings | quiet
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


DOWNLOAD = "from vlcore.hub import download_model; print(download_model('toy/tiny'))"


def test_model_is_downloaded_once_and_found_offline_afterwards(server, tmp_path):
    first = run(DOWNLOAD, tmp_path, server.server_port)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "cache" / "hub" / "models--toy--tiny" / "snapshots" / COMMIT
    assert first.stdout.strip() == str(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert run(DOWNLOAD, tmp_path, port=1).stdout == first.stdout  # nobody listens there


def test_model_that_the_hub_does_not_have_is_one_line_with_exit_code_3(server, tmp_path):
    code = (
        "from vlcore import cli, config, resolve\n"
        "cli.LazyGroup.invoke = lambda *_: resolve.resolve_model(config.LoadConfig(model='toy/gone'))\n"
        "cli.main(['models'])"
    )
    result = run(code, tmp_path, server.server_port)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 3
    assert "error: model toy/gone: Hugging Face did not give it (404 Client Error. Repository Not Found" in line
    assert line.endswith("unset USE_HF to ask ModelScope, or give a local folder with --model")


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_hugging_face_is_used_when_asked_for(value, monkeypatch):
    asked = []
    monkeypatch.setenv("USE_HF", value)
    monkeypatch.setattr(hub, "_download_huggingface", lambda *given: asked.append(given))
    hub.download_model(ModelRecord(name="a", huggingface="hf/a", modelscope="ms/a"), "token", "v1")
    hub.download_model("any/where")
    assert asked == [("hf/a", "token", "v1"), ("any/where", "", "")]


@pytest.mark.parametrize(("modelscope", "wanted"), [("ms/a", "ms/a"), ("", "hf/a")])
def test_modelscope_is_used_otherwise(modelscope, wanted, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "_download_modelscope", lambda *given: asked.append(given))
    hub.download_model(ModelRecord(name="a", huggingface="hf/a", modelscope=modelscope))
    assert asked == [(wanted, "", "")]


def test_missing_modelscope_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    monkeypatch.setitem(sys.modules, "modelscope.hub.api", None)
    with pytest.raises(ExtraMissing, match=r"run: pip install 'vlcore\[modelscope\]'"):
        hub.download_model("toy/tiny")


def test_whatever_a_hub_raises_is_model_not_found_in_one_line(monkeypatch):
    import huggingface_hub

    def fail(*_, **__):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setenv("USE_HF", "1")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelNotFound, match=r"did not give it \(first line second line\); check the name"):
        hub.download_model("toy/tiny")
