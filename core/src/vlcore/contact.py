"""Contact sheets: images with their answers as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: Columns of a sheet, and the edge of a picture in pixels.
COLUMNS, EDGE = 8, 96
#: Height of the line of text below a picture.
CAPTION = 22


def draw_contact_sheet(images: Sequence[Path], captions: Sequence[str], right: Sequence[bool], path: Path) -> Path:
    """A PNG with each image above its caption, green where the answer is right and red where it is wrong."""
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * EDGE, rows * (EDGE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for number, (image, caption, good) in enumerate(zip(images, captions, right, strict=True)):
        left, top = number % COLUMNS * EDGE, number // COLUMNS * (EDGE + CAPTION)
        with Image.open(image) as picture:
            shown = picture.convert("RGB")
        shown.thumbnail((EDGE - 4, EDGE - 4))
        sheet.paste(shown, (left + (EDGE - shown.width) // 2, top + (EDGE - shown.height) // 2))
        draw.text((left + 4, top + EDGE + 2), caption, fill="#117733" if good else "#cc2222", font=font)
    sheet.save(path)
    return path
