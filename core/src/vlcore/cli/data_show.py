"""`vlcore data show`: rows as a model sees them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vlcore.cli.options import ConfigCommand, config_options
from vlcore.doctor.settings import LookConfig, hide_others
from vlcore.errors import ModelNotFound

if TYPE_CHECKING:
    from vlcore.dataset import Row
    from vlcore.doctor.show import Piece
    from vlcore.model import Frontend


@click.command(cls=ConfigCommand)
@click.argument("sources", nargs=-1, metavar="FILE...")
@config_options(LookConfig, **hide_others())
@click.option("--row", "line", type=click.IntRange(min=1), default=None,
              help="The row that begins in this line, as errors name it; in a table, its number. [default: the first]")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="Rows from there on.")
@click.option("--ids", is_flag=True, help="Print the ids as well.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
              help="Colours; without them, ⟦ and ⟧ stand around what counts in the loss.")
@click.option("--draw", default="", help="File for the row's pictures with its boxes in them, such as out.png.")
@click.option("--overwrite", is_flag=True, help="Replace the files of --draw when they are there.")
def command(
    config: LookConfig, sources: tuple[str, ...], line: int | None, count: int, ids: bool, color: str, draw: str,
    overwrite: bool
) -> None:
    """Print rows as a model sees them: the prompt of a training, media with their sizes, tiles and tokens.

    What counts in the loss is green, special tokens are dim. The model's folder needs no weights.
    """
    from vlcore.doctor.draw import check_name
    from vlcore.doctor.settings import open_frontend, open_sources
    from vlcore.doctor.show import find_rows, join_ids, view_row

    config = config.add_sources(sources)
    if draw:
        check_name(Path(draw))
    frontend = open_frontend(config)
    if frontend is None:
        raise ModelNotFound("no model", "rows are shown as a model sees them", "give --model FOLDER_OR_ID")
    rows = open_sources(config, frontend, train=False)
    colours = color == "always" or (color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
    indices = find_rows(rows, line or 0, count)
    for number, row in enumerate(rows.select(indices)):
        view = view_row(frontend, row, config)
        parts = [*view.head, "", paint(view.prompt, colours)]
        parts += ["", paint(join_ids(view.ids), colours)] if ids else []
        click.echo("\n".join([*(["", "-" * 10, ""] if number else []), *parts]), color=colours)
    if draw:
        draw_rows(rows.select(indices), frontend, Path(draw), overwrite)


def paint(pieces: Iterable[Piece], colours: bool) -> str:
    """Pieces with their styles, or with marks around what counts in the loss."""
    if colours:
        return "".join(style(piece) for piece in pieces)
    text, inside = "", False
    for piece in pieces:
        text += "" if piece.trained == inside else "⟦" if piece.trained else "⟧"
        text, inside = text + piece.text, piece.trained
    return text + "⟧" * inside


def style(piece: Piece) -> str:
    """A piece in its colour."""
    colour = "green" if piece.trained else "cyan" if piece.kind == "media" else None
    return click.style(piece.text, fg=colour, dim=piece.kind == "special" or None)


def draw_rows(rows: Iterable[Row], frontend: Frontend, path: Path, overwrite: bool) -> None:
    """Writes the pictures of rows with their boxes, and says where."""
    from vlcore.doctor.draw import draw_row, save_pictures

    pictures = [picture for row in rows for picture in draw_row(row, frontend.checkpoint.family)]
    if not pictures:
        click.echo("no boxes on pictures: nothing is drawn", err=True)
        return
    for file in save_pictures(pictures, path, overwrite):
        click.echo(f"boxes: {file}", err=True)
