"""What a terminal is given and what is typed there: signs that do nothing, lines that can be edited and found again."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

#: Control characters by their pictures, so that no text of a model can move the cursor or set a title. New lines
#: and tabs stay; the second set of controls has no pictures.
_PICTURES = {
    **{code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), "\ufffd"),
}
#: Lines that are kept for the next talk.
KEPT_LINES = 1000


def clean_text(text: str) -> str:
    """A text with its control characters made visible; a new line and a tab stay what they are.

    >>> clean_text("one\\x1b[2Jtwo\\n")
    'one␛[2Jtwo\\n'
    """
    return text.translate(_PICTURES)


def read_line(prompt: str) -> str:
    """A line typed after a prompt. One that is piped in is shown behind it, so that the talk can be read.

    Raises:
        EOFError: when there is no more.
    """
    line = input(prompt)
    if not sys.stdin.isatty():
        click.echo(clean_text(line))
    return line


def history_file() -> Path:
    """Where typed lines are kept: in `XDG_STATE_HOME/vlcore`, else in `~/.local/state/vlcore`."""
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "state") / "vlcore" / "history"


@contextmanager
def line_editing(path: Path) -> Iterator[None]:
    """A scope in which lines can be edited, and those of earlier talks be found with the arrow keys.

    Only for a person at a terminal, and where Python has `readline`; what is piped in is kept nowhere.
    """
    if not sys.stdin.isatty():
        yield
        return
    try:
        import readline
    except ImportError:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        readline.read_history_file(path)
    except OSError as error:
        warnings.warn(f"{path}: typed lines cannot be kept ({error.strerror})", stacklevel=3)
        yield
        return
    readline.set_history_length(KEPT_LINES)
    known = readline.get_current_history_length()
    try:
        yield
    finally:
        readline.append_history_file(readline.get_current_history_length() - known, path)
