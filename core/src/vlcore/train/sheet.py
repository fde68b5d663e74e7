"""Sheets of rows with their pictures, questions and answers: a PNG to look at, and an HTML file that needs no other."""

from __future__ import annotations

import base64
import html
import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.boxes import draw_boxes
from vlcore.errors import VlcoreError
from vlcore.fonts import choose_font
from vlcore.media import open_image
from vlcore.messages import Image, Message, Video

if TYPE_CHECKING:
    from PIL import Image as PilImage
    from PIL.ImageDraw import ImageDraw

    from vlcore.fonts import Font
    from vlcore.model import Frontend

#: Pictures of a row that are shown, and the longest edge of one in the HTML file, in pixels.
PICTURES, INLINE_EDGE = 4, 320
#: Of the PNG: columns of cards; in pixels a card's width, the place for pictures in it, size of text, space around.
COLUMNS, WIDTH, SQUARE, SIZE, SPACE = 2, 560, 200, 13, 10
#: Lines that a question, an expected answer or an answer may take in the PNG.
LINES = 4
RIGHT, PARTLY, WRONG, PLAIN, GREY = "#117733", "#b36b00", "#bb2222", "#222222", "#777777"
STYLE = f"""
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: {PLAIN} }}
table {{ border-collapse: collapse }}
td, th {{ border-bottom: 1px solid #ddd; padding: .6em; text-align: left; vertical-align: top }}
td.text {{ white-space: pre-wrap; overflow-wrap: anywhere; max-width: 30em }}
figure {{ display: inline-block; margin: 0 .4em .4em 0 }}
figcaption {{ font-size: 12px; color: {GREY} }}
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of a row, with a word below it; without a picture the word says why."""

    picture: PilImage.Image | None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a sheet.

    Attributes:
        shown: its pictures.
        question: the last question.
        expected: the label.
        answer: what the model said.
        scores: by the metrics' names, None where a metric could not be asked.
        good: how good the answer is, from 0 to 1; None when nothing says it.
    """

    shown: tuple[Shown, ...]
    question: str
    expected: str
    answer: str
    scores: Mapping[str, float | None]
    good: float | None

    @property
    def colour(self) -> str:
        """The colour of the answer."""
        if self.good is None:
            return PLAIN
        return RIGHT if self.good >= 1 else PARTLY if self.good > 0 else WRONG

    @property
    def note(self) -> str:
        """The scores in a line."""
        return ", ".join(f"{name} {'-' if value is None else f'{value:.3g}'}" for name, value in self.scores.items())


def show_media(frontend: Frontend, messages: Sequence[Message], expected: str, answer: str) -> Iterator[Shown]:
    """The pictures of a conversation; the last one once for each text with boxes, the boxes drawn in it.

    Args:
        frontend: takes the frames of videos, and reads boxes.
        messages: the conversation without its answer.
        expected: the label.
        answer: what the model said.
    """
    try:
        media = [part for message in frontend.fetch(messages) for part in message.media]
        pictures = [shrink(open_image(image), INLINE_EDGE) for image in list_images(media)]
    except (VlcoreError, OSError):
        yield Shown(None, "the picture cannot be read any more")
        return
    read = frontend.checkpoint.family.grounding.read if frontend.checkpoint.family.grounding else lambda text: ()
    boxes = {caption: found for caption, text in (("expected", expected), ("answer", answer)) if (found := read(text))}
    drawn = [Shown(draw_boxes(pictures[-1], found), caption) for caption, found in boxes.items()] if pictures else []
    yield from map(Shown, pictures[: len(pictures) - bool(drawn)][: PICTURES - len(drawn)])
    yield from drawn


def list_images(media: Sequence[Image | Video]) -> list[Image]:
    """The pictures of media; of a video a few frames."""
    images: list[Image] = []
    for medium in media:
        if isinstance(medium, Image):
            images.append(medium)
        else:
            images += medium.frames[:: max(1, len(medium.frames) // PICTURES)][:PICTURES]
    return images


def write_sheet(entries: Sequence[Entry], title: str, path: Path) -> None:
    """Writes `PATH.png` and `PATH.html`, renamed into place; nothing without entries.

    Args:
        entries: the rows.
        title: the heading of the page.
        path: the files without their endings.
    """
    if not entries:
        return
    path.parent.mkdir(exist_ok=True)
    pixels = io.BytesIO()
    draw_sheet(entries).save(pixels, "PNG")
    for ending, data in ((".png", pixels.getvalue()), (".html", write_page(entries, title).encode("utf8"))):
        part = path.with_name(f".{path.name}{ending}")
        part.write_bytes(data)
        part.replace(path.with_name(path.name + ending))


def draw_sheet(entries: Sequence[Entry]) -> PilImage.Image:
    """The rows as cards on one picture; long texts are cut, with an ellipsis."""
    from PIL import Image as PilImage

    texts = "".join(text for entry in entries for text, _ in list_texts(entry))
    cards = [draw_card(entry, choose_font(clean(texts), SIZE)) for entry in entries]
    lines = [cards[at : at + COLUMNS] for at in range(0, len(cards), COLUMNS)]
    heights = [max(card.height for card in line) for line in lines]
    sheet = PilImage.new("RGB", (COLUMNS * WIDTH, sum(heights)), "white")
    for number, line in enumerate(lines):
        for column, card in enumerate(line):
            sheet.paste(card, (column * WIDTH, sum(heights[:number])))
    return sheet


def draw_card(entry: Entry, font: Font) -> PilImage.Image:
    """A row: its pictures on the left, what was asked and said on the right, a line above it."""
    from PIL import Image as PilImage
    from PIL import ImageDraw

    card = PilImage.new("RGB", (WIDTH, 4 * SQUARE), "white")
    pen = ImageDraw.Draw(card)
    pen.font = font
    pen.line((0, 0, WIDTH, 0), fill="#dddddd")
    return card.crop((0, 0, WIDTH, SPACE + max(paste_pictures(card, entry.shown), write_texts(pen, entry))))


def paste_pictures(card: PilImage.Image, shown: Sequence[Shown]) -> int:
    """Puts a row's pictures on the left of its card: one is large, more share the place two by two.

    Returns:
        Where they end, from the top.
    """
    from PIL import ImageDraw

    pen, edge, bottom = ImageDraw.Draw(card), SQUARE if len(shown) == 1 else SQUARE // 2, SPACE
    for at in range(0, len(shown), 2):
        top = bottom
        for column, item in enumerate(shown[at : at + 2]):
            left, end = SPACE + column * edge, top
            if item.picture:
                small = shrink(item.picture, edge - 6)
                card.paste(small, (left, top))
                end += small.height + 4
            pen.text((left, end), item.caption, fill=GREY, font=choose_font(item.caption, 11))
            bottom = max(bottom, end + (14 if item.caption else 0))
    return bottom


def write_texts(pen: ImageDraw, entry: Entry) -> int:
    """Writes question, label, answer and scores below each other on the right of a card; returns where they end."""
    top, left, width = SPACE, SQUARE + 2 * SPACE, WIDTH - SQUARE - 3 * SPACE
    for text, colour in list_texts(entry):
        for line in wrap(pen, clean(text), width):
            pen.text((left, top), line, fill=colour)
            top += SIZE + 4
        top += 4
    return top


def list_texts(entry: Entry) -> list[tuple[str, str]]:
    """The texts of a card with their colours."""
    return [(entry.question, GREY), (f"expected: {entry.expected}", PLAIN), (f"answer: {entry.answer}", entry.colour),
            (entry.note, GREY)]


def wrap(pen: ImageDraw, text: str, width: int) -> list[str]:
    """The lines of a text, none wider than `width` pixels, `LINES` at most."""
    # Words are kept whole where they fit; a text without spaces, as in Chinese, is cut between signs.
    text = text[: LINES * width // 2]  # no sign is that narrow
    count = max(int(len(text) * width / max(pen.textlength(text.replace("\n", " ")), 1)), 1)
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, count)]
    while any(pen.textlength(line) > width for line in lines) and count > 1:
        count -= 1
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, count)]
    return lines if len(lines) <= LINES else [*lines[: LINES - 1], f"{lines[LINES - 1][:-1]}…"]


def clean(text: str) -> str:
    """A text without what has no sign: control characters and halves of surrogate pairs.

    >>> clean("a\\x00b\\tc")
    'ab c'
    """
    plain = text.replace("\t", " ").encode("utf8", "replace").decode("utf8")
    return "".join(sign for sign in plain if sign == "\n" or sign.isprintable())


def write_page(entries: Sequence[Entry], title: str) -> str:
    """An HTML page of the rows; all texts are shown as they are, pictures are inside."""
    rows = "\n".join(map(write_row, entries))
    head = "".join(f"<th>{name}</th>" for name in ("picture", "question", "expected", "answer", "scores"))
    return (f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
            f"<table><tr>{head}</tr>\n{rows}\n</table></body></html>\n")


def write_row(entry: Entry) -> str:
    """A row of the page."""
    texts = ((entry.question, GREY), (entry.expected, PLAIN), (entry.answer, entry.colour), (entry.note, GREY))
    cells = "".join(f'<td class="text" style="color: {colour}">{html.escape(clean(text))}</td>'
                    for text, colour in texts)
    return f"<tr><td>{''.join(map(write_figure, entry.shown))}</td>{cells}</tr>"


def write_figure(shown: Shown) -> str:
    """A picture in the page."""
    caption = f"<figcaption>{html.escape(shown.caption)}</figcaption>"
    if shown.picture is None:
        return f"<figure>{caption}</figure>"
    held = io.BytesIO()
    shrink(shown.picture, INLINE_EDGE).save(held, "JPEG", quality=85)
    data = base64.b64encode(held.getvalue()).decode("ascii")
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}">{caption}</figure>'


def shrink(picture: PilImage.Image, edge: int) -> PilImage.Image:
    """A copy in RGB whose edges are no longer than `edge`."""
    small = picture.convert("RGB")
    small = small.copy() if small is picture else small
    small.thumbnail((edge, edge))
    return small
