"""The exceptions of the library, and near names for what was mistyped.

Every error says three things: what was given, why it cannot work, what to do. The library raises them; only
the command line prints them (one line, and the exit code below).
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


class VlcoreError(Exception):
    """Base of all errors of the library.

    Args:
        given: what the user or the caller gave, quoted as it was given.
        why: why it cannot work.
        do: what to do instead.
    """

    exit_code: int = 1

    def __init__(self, given: str, why: str, do: str) -> None:
        super().__init__(f"{given}: {why}; {do}")
        self.given, self.why, self.do = given, why, do

    def __reduce__(self) -> tuple[Any, ...]:
        """Its parts, so that it comes whole from another process."""
        return _remake, (type(self), self.given, self.why, self.do)


class UsageError(VlcoreError):
    """An option or argument that cannot be used as given."""

    exit_code = 2


class ModelNotFound(VlcoreError):
    """A model name, hub id or folder that no installed plugin can serve."""

    exit_code = 3


class PluginError(VlcoreError):
    """Installed plugins that are broken, misspelt or in each other's way."""

    exit_code = 4


class DataError(VlcoreError):
    """A row of a data file that cannot be used; the given part names file, line and field."""

    exit_code = 5


class CheckpointError(VlcoreError):
    """A checkpoint folder that is incomplete, damaged or not what it says."""

    exit_code = 6


class MediaError(VlcoreError):
    """An image or video that cannot be read, or that exceeds a limit."""

    exit_code = 7


class ExtraMissing(VlcoreError):
    """A part of vlcore whose optional dependency is not installed."""

    exit_code = 8

    def __init__(self, what: str, package: str, extra: str, distribution: str = "vlcore") -> None:
        why = f"it needs {package}, which is not installed"
        super().__init__(what, why, f"run: pip install '{distribution}[{extra}]'")


class VlcoreDeprecationWarning(DeprecationWarning):
    """A part of the contract with plugins that a later version of it will not have."""


def _remake(kind: type[VlcoreError], given: str, why: str, do: str) -> VlcoreError:
    error = kind.__new__(kind)
    VlcoreError.__init__(error, given, why, do)
    return error


def suggest_near(name: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known names, or all of them when they are few.

    >>> suggest_near("internvl2-2", ["internvl2-2b", "yi-vl-6b-chat", "qwen-vl"])
    'did you mean internvl2-2b?'
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    if not names:
        return "there are none"
    return "known are " + ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def show(value: object) -> str:
    """What somebody gave, for a message: on one line, in signs that can be printed, without the middle of what is long.

    >>> show("a\\nb"), show([["deep", 1e999]])
    ('a\\\\nb', "[['deep', inf]]")
    """
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = text if len(text) <= 180 else f"{text[:90]}...{text[-80:]}"
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; its name when it says nothing.

    A first line that ends with a colon announces the reason, so the second line comes with it.

    >>> first_line(RuntimeError("in loading:\\n  size mismatch for a"))
    'in loading: size mismatch for a'
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
