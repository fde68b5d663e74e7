"""What `vlcore serve` takes, and what it serves under which name."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from vlcore.cli import main
from vlcore.serve.settings import ServeConfig


def fail(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command that must fail."""
    with pytest.raises(SystemExit) as ended:
        main(["serve", *map(str, words)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vlcore: error:")]
    assert ended.value.code
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("words", "why"), [
    ((), "nothing says which model"),
    (("--model", "x", "--adapter", "one"), "--adapter one: it is not NAME=FOLDER"),
    (("--model", "x", "--adapter", "a=1", "a=2"), "two adapters have this name"),
    (("--model", "x", "--port", "70000"), "port is 70000, it takes at most 65535"),
    (("--model", "x", "--allowed_media_dir", "no/such"), "allowed_media_dir no/such: there is no such folder"),
    (("--model", "x", "--host", "203.0.113.9", "--port", "0"), "it cannot be listened on"),
    (("--model", "no/such/model", "--port", "0"), "no/such/model"),
])
def test_bad_options_end_in_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str) -> None:
    assert why in fail(capsys, *words)


def test_a_port_that_is_taken_is_noticed_before_the_model_is_read(
    capsys: pytest.CaptureFixture[str], release: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = fail(capsys, "--model", release, "--port", taken.getsockname()[1])
    assert "it cannot be listened on (Address already in use)" in line


def test_a_damaged_adapter_ends_the_start(capsys: pytest.CaptureFixture[str], release: Path, tmp_path: Path) -> None:
    assert "adapter_config.json" in fail(capsys, "--model", release, "--adapter", f"a={tmp_path}", "--port", "0")


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError('No module named fastapi', name='fastapi')", "utf8")
    command = [str(Path(sys.executable).with_name("vlcore")), "serve", "--model", "x"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 8
    assert done.stderr.strip().splitlines()[-1] == (
        "vlcore: error: vlcore serve: it needs fastapi, which is not installed; run: pip install 'vlcore[serve]'")


def test_an_adapter_as_the_model_is_served_beside_its_base(adapters: dict[str, Path], release: Path) -> None:
    from vlcore.serve.served import open_served

    served = open_served(ServeConfig(model=str(adapters["one"]), adapter=(f"b={adapters['two.0']}",)))
    assert list(served) == ["tiny", "one", "b"]
    assert served["tiny"].adapter is None
    assert served["one"].model.checkpoint.folder.resolve() == release.resolve()


def test_a_model_may_be_given_a_name_and_an_adapter_may_not_have_it(adapters: dict[str, Path], release: Path) -> None:
    from vlcore.errors import UsageError
    from vlcore.serve.served import open_served

    assert list(open_served(ServeConfig(model=str(release), served_name="gpt"))) == ["gpt"]
    with pytest.raises(UsageError, match="give --served_name"):
        open_served(ServeConfig(model=str(release), adapter=(f"tiny={adapters['one']}",)))
