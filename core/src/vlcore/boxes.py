"""Boxes that texts contain: read out of answers, drawn on pictures, written into training data.

Each family writes boxes in marks of its own; its record says how (`ModelFamily.grounding`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlcore.messages import Image, Message

if TYPE_CHECKING:
    from PIL import Image as PilImage
    from PIL import ImageDraw

#: (x, y) from 0, left and top, to 1, right and bottom.
Point = tuple[float, float]
#: Colours that are told apart on most pictures, for one thing after the other.
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#bfa100", "#f032e6")
#: The marks that several families share, and the numbers in them.
MARKS = re.compile(r"<ref>(?P<label>.*?)</ref>|<(?P<kind>box|quad)>(?P<body>[^<]*)</(?P=kind)>", re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Box:
    """A box.

    Attributes:
        points: two opposite corners, or the four of a quadrilateral in order.
        label: what it shows; empty when the text does not say.
    """

    points: tuple[Point, ...]
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounding:
    """How a family writes boxes.

    Attributes:
        read: the boxes in a text, in order.
        write_box: a box in the family's marks, without its label.
        write_label: the name of a thing in the family's marks.
    """

    read: Callable[[str], tuple[Box, ...]]
    write_box: Callable[[Box], str]
    write_label: Callable[[str], str]


def read_marks(text: str) -> tuple[Box, ...]:
    """Boxes in `<box>` and `<quad>` marks, in thousandths of width and height.

    A `<ref>` names all boxes that follow it directly. Boxes with fewer numbers than corners are left out.

    >>> read_marks("<ref> a cup</ref><box>(100,200),(300,400)</box>")
    (Box(points=((0.1, 0.2), (0.3, 0.4)), label='a cup'),)
    >>> len(read_marks("<ref>cups</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>"))
    2
    """
    boxes: list[Box] = []
    label, end = "", 0
    for mark in MARKS.finditer(text):
        if text[end : mark.start()].strip():
            label = ""
        if mark["kind"]:
            boxes += (Box(points, label) for points in _read_points(mark["body"], 4 if mark["kind"] == "quad" else 2))
        else:
            label = mark["label"].strip()
        end = mark.end()
    return tuple(boxes)


def _read_points(body: str, corners: int) -> list[tuple[Point, ...]]:
    values = [float(number) / 1000 for number in NUMBER.findall(body)]
    points = list(zip(values[::2], values[1::2], strict=False))
    return [tuple(points[at : at + corners]) for at in range(0, len(points) - corners + 1, corners)]


def draw_answer(messages: Sequence[Message], grounding: Grounding) -> PilImage.Image | None:
    """The last picture of a conversation with the boxes of its last answer, or None when there is nothing to draw.

    Args:
        messages: the conversation with its answer, such as `reply.history`.
        grounding: how the family writes boxes.

    Raises:
        MediaError: when the picture cannot be read.
    """
    from vlcore.media import open_image

    answers = [message.text for message in messages if message.role == "assistant"]
    pictures = [part for message in messages for part in message.media if isinstance(part, Image)]
    boxes = grounding.read(answers[-1]) if answers else ()
    return draw_boxes(open_image(pictures[-1]), boxes) if boxes and pictures else None


def draw_boxes(picture: PilImage.Image, boxes: Sequence[Box]) -> PilImage.Image:
    """A copy of a picture with boxes in it, one colour for each label."""
    from PIL import ImageDraw

    from vlcore.fonts import choose_font

    drawn = picture.convert("RGB")
    if drawn is picture:
        drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    pen.font = choose_font("".join(box.label for box in boxes), max(12, min(drawn.size) // 30))
    # A box without a label is a thing of its own.
    things = list(dict.fromkeys(box.label or number for number, box in enumerate(boxes)))
    for number, box in enumerate(boxes):
        colour = COLOURS[things.index(box.label or number) % len(COLOURS)]
        _draw_box(pen, [place_point(point, drawn.size) for point in _list_corners(box)], box.label, colour)
    return drawn


def place_point(point: Point, size: tuple[int, int]) -> tuple[int, int]:
    """A point in pixels, inside the picture; fractions are cut off.

    >>> place_point((0.302, 1.0), (640, 480))
    (193, 479)
    """
    x, y = (min(max(0, int(part * edge)), edge - 1) for part, edge in zip(point, size, strict=True))
    return x, y


def _list_corners(box: Box) -> tuple[Point, ...]:
    if len(box.points) != 2:
        return box.points
    (left, top), (right, bottom) = box.points
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _draw_box(pen: ImageDraw.ImageDraw, corners: Sequence[tuple[int, int]], label: str, colour: str) -> None:
    pen.line([*corners, *corners[:2]], fill=colour, width=max(2, min(pen.im.size) // 200), joint="curve")
    if not label:
        return
    x, y = min(x for x, _ in corners), min(y for _, y in corners)
    left, top, right, bottom = pen.textbbox((x, y), label, anchor="lb")
    # A label that has no room above its box stands inside it, one too far right is moved.
    down, across = max(0, -top), min(0, pen.im.size[0] - right)
    pen.rectangle((left + across, top + down, right + across, bottom + down), fill=colour)
    pen.text((x + across, y + down), label, fill="white", anchor="lb")
