"""Markdown in, markdown out: marked parts are replaced by what the code says.

A part stands between two comments. What is between them is read where the page is read as a file, and is replaced in
the site:

    <!-- made: options -->
    `vlcore sft --help` prints them.
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

#: A part and what stands in its place in the file.
PART = re.compile(r"^<!-- made: ([a-z ]+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
#: A link to a file: its text and its target, without what follows `#`.
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
#: Blocks of code, which are left as they are.
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def fill_parts(markdown: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """A page with its parts made.

    Raises:
        KeyError: for a part that nothing makes.
    """
    return PART.sub(lambda found: parts[found[1]](), markdown)


def unlink_outside(markdown: str, folder: Path, docs: Path) -> str:
    """A page whose links out of the docs, to the repository's files, are their texts alone: the site has no such files.

    Args:
        markdown: the page.
        folder: the folder of the page's file.
        docs: the folder of all pages.
    """

    def write_link(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        return found[0] if target.is_relative_to(docs.resolve()) else found[1]

    pieces = FENCE.split(markdown)
    return "".join(piece if piece.startswith("```") else LINK.sub(write_link, piece) for piece in pieces)


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its cells on one line each."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(write_cell(cell) for cell in line) + " |" for line in lines)


def write_cell(text: str) -> str:
    """A cell's text without line ends, its bars not taken for borders. In code they are none anyway.

    >>> write_cell("a | b\\n `c | d`")
    'a &#124; b `c | d`'
    """
    pieces = " ".join(text.split()).split("`")
    return "`".join(piece if number % 2 else piece.replace("|", "&#124;") for number, piece in enumerate(pieces))


def quote(text: str) -> str:
    """A text as code; nothing for an empty one."""
    return f"`{text}`" if text else ""
