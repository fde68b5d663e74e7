"""Docstrings in parts: what is said, then `Args`, `Attributes`, `Returns`, `Raises` and an `Example`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

#: A heading of a part, or the example, which stands on the heading's line.
HEADING = re.compile(r"^(Args|Attributes|Returns|Raises|Example):", re.MULTILINE)
#: An entry of a part: its name, and its text to the next one.
ENTRY = re.compile(r"^(\w+(?:, \w+)*): (.*?)(?=^\w+(?:, \w+)*: |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring's parts.

    Attributes:
        text: all before the first heading.
        entries: texts of `Args` and `Attributes`, by name.
        returns: what comes back.
        raises: texts of `Raises`, by name.
        example: one line of code.
    """

    text: str
    entries: Mapping[str, str] = field(default_factory=dict)
    returns: str = ""
    raises: Mapping[str, str] = field(default_factory=dict)
    example: str = ""


def read_docstring(thing: object) -> Docstring:
    """The docstring of a function or class."""
    text, *rest = HEADING.split(strip_examples(inspect.getdoc(thing) or ""))
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    return Docstring(
        text=text.strip(),
        entries=read_entries(parts.get("Args", "") + parts.get("Attributes", "")),
        returns=join_lines(parts.get("Returns", "")),
        raises=read_entries(parts.get("Raises", "")),
        example=join_lines(parts.get("Example", "")),
    )


def strip_examples(text: str) -> str:
    """A docstring without the lines of an interpreter's session."""
    return re.split(r"^>>> ", text, maxsplit=1, flags=re.MULTILINE)[0]


def read_entries(text: str) -> dict[str, str]:
    """The entries of a part by name."""
    return {name: join_lines(said) for name, said in ENTRY.findall(inspect.cleandoc("\n" + text.strip("\n")))}


def join_lines(text: str) -> str:
    """A text on one line."""
    return " ".join(text.split())
