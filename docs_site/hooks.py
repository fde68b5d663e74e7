"""What mkdocs calls while it builds the site: parts that come from the code are put into their pages.

`mkdocs.yml` names this file. mkdocs finds the functions by their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sitepages import PARTS
from sitepages.fill import fill_parts, unlink_outside

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

#: Pages that lie outside the folder of the docs, by where they stand in the site.
OUTSIDE = {"changes.md": "CHANGELOG.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside the folder of the docs."""
    from mkdocs.structure.files import File

    root = Path(config.docs_dir).parent
    for name, source in OUTSIDE.items():
        files.append(File.generated(config, name, content=(root / source).read_text("utf8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills the parts that a page leaves to the code."""
    folder = (Path(config.docs_dir) / page.file.src_uri).parent
    return unlink_outside(fill_parts(markdown, PARTS), folder, Path(config.docs_dir))
