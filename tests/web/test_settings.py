"""What the command takes, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from vlcore.cli import main
from vlcore.errors import UsageError
from vlcore.web.settings import WebConfig, find_models


def fail(*words: str) -> str:
    command = [str(Path(sys.executable).with_name("vlcore")), "web", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    return line


def test_page_is_for_this_machine_alone():
    assert WebConfig(model="m").host == "127.0.0.1"


def test_model_is_needed():
    with pytest.raises(UsageError, match="web without a model"):
        WebConfig()


@pytest.mark.parametrize("text", ["someone", "someone:", ":secret"])
def test_auth_without_user_or_password_is_refused_and_not_repeated(text):
    with pytest.raises(UsageError, match="it is not USER:PASSWORD") as caught:
        WebConfig(model="m", auth=text)
    assert "someone" not in str(caught.value) and "secret" not in str(caught.value)


def test_models_are_those_that_serve_would_open():
    config = WebConfig(model="m", adapter=("a=x",), served_name="n", dtype="fp32")
    found = find_models(config)
    assert (found.model, found.adapters, found.served_name, found.dtype) == ("m", (("a", "x"),), "n", "fp32")


def test_sharing_on_the_internet_is_not_offered():
    assert "option --share: there is no such option" in fail("--model", "m", "--share")


def test_port_in_use_is_one_line_before_the_model_is_loaded():
    from vlcore.serve.listen import bind

    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert f"127.0.0.1:{port}: it cannot be listened on" in fail("--model", "m", "--port", str(port))


def test_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    for name in ("vlcore.web.server", "vlcore.web.page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(SystemExit) as caught:
        main(["web", "--model", "m"])
    assert caught.value.code == 8
    assert "pip install 'vlcore[web]'" in capsys.readouterr().err
