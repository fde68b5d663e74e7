"""`vlcore infer` without a question, as a person and as a script use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
from vlcore.cli import main
from vlcore.console import LINE
from vlcore.terminal import clean_text, history_file, line_editing, read_line

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT = DATA / "images" / "cat_small.png"
VLCORE = [sys.executable, "-c", "from vlcore.cli import main; main()"]
INFER = ["infer", "--model", str(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint"), "--temperature", "0"]
WAIT = 120


@pytest.fixture(scope="module")
def spawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pexpect.spawn]:
    """Opens talks in a pseudo-terminal, all with one history."""
    settings = {**os.environ, "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")), "TERM": "xterm"}

    def start(*options: str) -> pexpect.spawn:
        child = pexpect.spawn(VLCORE[0], [*VLCORE[1:], *INFER, *options], env=settings, timeout=WAIT, encoding="utf8",
                              dimensions=(24, 200), codec_errors="replace")
        child.state = Path(settings["XDG_STATE_HOME"])
        child.expect_exact("<<< ")
        return child

    return start


def test_ctrl_c_stops_an_answer_and_the_next_turn_is_taken(spawn: Callable[..., pexpect.spawn]) -> None:
    talk = spawn("--max_new_tokens", "3000")
    talk.sendline("Tell a long story")
    talk.expect_exact("Tell a long story\r\n")
    talk.expect(".{20}")
    talk.sendintr()
    talk.expect_exact("[INFO] Stopped")
    talk.expect_exact("<<< ")
    talk.sendintr()
    talk.expect_exact("[INFO] Stopped; `exit` or Ctrl-D ends the talk.")
    talk.expect_exact("<<< ")
    talk.sendline("multi-line")
    talk.expect_exact("[INFO] End multi-line input with `#`.")
    talk.expect_exact("<<<[M] ")
    talk.sendeof()
    talk.expect(pexpect.EOF)
    talk.close()
    assert talk.exitstatus == 0
    kept = talk.state / "vlcore" / "history"
    assert kept.read_text("utf8").splitlines() == ["Tell a long story", "multi-line"]
    assert kept.stat().st_mode & 0o077 == 0
    again = spawn()
    again.send("\x1b[A\r")  # the arrow upwards finds the last line of the earlier talk
    again.expect_exact("[INFO] End multi-line input")
    again.close(force=True)


def test_a_piped_talk_reads_as_it_was_typed_and_keeps_no_history(tmp_path: Path) -> None:
    lines = f"<image>What?\n{CAT}\nAnd?\nsave {tmp_path}/talk.jsonl\nexit\n"
    settings = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run([*VLCORE, *INFER, "--max_new_tokens", "3"], input=lines, text=True, capture_output=True,
                          env=settings, check=True, timeout=WAIT)
    assert done.stdout.startswith(f"<<< <image>What?\nInput an image path or URL <<< {CAT}\n")
    assert done.stdout.count(LINE) == 2
    assert f"<<< save {tmp_path}/talk.jsonl\n[INFO] The talk is row 1 of" in done.stdout
    assert done.stdout.endswith("<<< exit\n")
    assert not (tmp_path / "state").exists()


def test_a_question_about_a_video_takes_its_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(CAT.read_bytes())
    command = [*INFER, "--max_new_tokens", "3", "--question", "<video>What happens?"]
    with pytest.raises(SystemExit):
        main([*command, "--video_file", str(tmp_path)])
    assert capsys.readouterr().out.startswith("----------\nquestion: <video>What happens?\noutputs: ")
    with pytest.raises(SystemExit):
        main(command)
    assert "it has a tag but no video; give --video_file" in capsys.readouterr().err


def test_a_history_that_cannot_be_kept_is_said_once_and_lines_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vlcore").write_text("a file", "utf8")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.warns(UserWarning, match="typed lines cannot be kept"), line_editing(history_file()):
        monkeypatch.setattr("builtins.input", lambda prompt: f"{prompt}typed")
        assert read_line("<<< ") == "<<< typed"


def test_letters_of_every_script_stay_and_controls_are_shown() -> None:
    assert clean_text("naïve 你好\n\tمرحبا 👋") == "naïve 你好\n\tمرحبا 👋"
    assert clean_text("\x1b[31m\x7f\x85\r") == "␛[31m␡\ufffd␍"
