"""Objects meet their places: `<ref-object>` and `<bbox>` in a row become names and boxes in the family's marks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlcore.dataset.index import parse_row
from vlcore.dataset.row import Site
from vlcore.errors import MediaError, show, suggest_near
from vlcore.messages import Image, Message, Text

if TYPE_CHECKING:
    from vlcore.boxes import Box, Grounding

NAME_TAG, BOX_TAG = "<ref-object>", "<bbox>"
TAGS = re.compile(f"{NAME_TAG}|{BOX_TAG}")
#: What the numbers of a box count: pixels of its picture, thousandths, or parts of one.
KINDS = ("real", "norm_1000", "norm_1")
_EXAMPLE = 'write {"caption": "the cat", "bbox": [10, 20, 30, 40]}'


@dataclass(frozen=True, slots=True)
class Object:
    """A thing in a picture: its name, and its boxes, of which it mostly has one."""

    name: str
    boxes: tuple[Box, ...]


def write_objects(messages: Sequence[Message], data: Mapping[str, Any], site: Site) -> tuple[Message, ...]:
    """The messages with the row's objects at their tags, in order; names and boxes are counted apart.

    Raises:
        DataError: when tags and objects differ in number, an object cannot be read, or the family has no marks.
    """
    texts = [part.text for message in messages for part in message.content if isinstance(part, Text)]
    tags = [tag for text in texts for tag in TAGS.findall(text)]
    if not tags:
        return tuple(messages)
    if site.options.grounding is None:
        raise site.fault("objects", f"this model has no marks for {tags[0]}", "take a model that finds things")
    objects = read_objects(data.get("objects"), messages, site)
    wanted = max(tags.count(NAME_TAG), tags.count(BOX_TAG))
    if wanted != len(objects):
        raise site.fault("objects", f"there are {len(objects)} for {wanted} tags", "give as many objects as tags")
    for at, thing in enumerate(objects):
        if (at < tags.count(NAME_TAG) and not thing.name) or (at < tags.count(BOX_TAG) and not thing.boxes):
            raise site.fault(f"objects[{at}]", "its tag needs a caption or bbox that it lacks", _EXAMPLE)
    written = write_tags(objects, site.options.grounding)
    return tuple(replace(m, content=tuple(_fill_part(part, written) for part in m.content)) for m in messages)


def write_tags(objects: Sequence[Object], grounding: Grounding) -> Mapping[str, Iterator[str]]:
    """What takes the place of each tag of a kind, one after the other."""
    return {
        NAME_TAG: (grounding.write_label(thing.name) for thing in objects),
        BOX_TAG: ("".join(map(grounding.write_box, thing.boxes)) for thing in objects),
    }


def _fill_part(part: Any, written: Mapping[str, Iterator[str]]) -> Any:
    return Text(TAGS.sub(lambda tag: next(written[tag[0]]), part.text)) if isinstance(part, Text) else part


def read_objects(value: Any, messages: Sequence[Message], site: Site) -> list[Object]:
    """The objects of a row: a list, or a text that holds one in JSON."""
    if isinstance(value, str):
        try:
            value = parse_row(value.encode("utf-8"))
        except ValueError as error:
            raise site.fault("objects", f"as a text, {error}", f"write a list: {_EXAMPLE}") from error
    if not isinstance(value, list):
        raise site.fault("objects", "it is not a list", f"write a list: {_EXAMPLE}")
    pictures = [part for message in messages for part in message.media if isinstance(part, Image)]
    return [_read_object(item, f"objects[{i}]", pictures, site) for i, item in enumerate(value)]


def _read_object(item: Any, field: str, pictures: Sequence[Image], site: Site) -> Object:
    if not isinstance(item, dict):
        raise site.fault(field, "it is not an object", _EXAMPLE)
    item = {key: value for key, value in item.items() if value is not None}
    if not isinstance(item.get("caption", ""), str):
        raise site.fault(f"{field}.caption", "it is not a text", "put it in quotes")
    kind = item.get("bbox_type", KINDS[0])
    if kind not in KINDS:
        raise site.fault(f"{field}.bbox_type", f"there is no type '{show(kind)}'", suggest_near(show(kind), KINDS))
    box = item.get("bbox", [])
    if not isinstance(box, list):
        raise site.fault(f"{field}.bbox", "it is not a list", "write [x_min, y_min, x_max, y_max]")
    boxes = box if box and isinstance(box[0], list) else [box] if box else []
    width, height = _measure(item, kind, field, pictures, site) if boxes else (1, 1)
    return Object(item.get("caption", ""), tuple(_read_box(numbers, width, height, field, site) for numbers in boxes))


def _measure(item: Mapping[str, Any], kind: str, field: str, pictures: Sequence[Image], site: Site) -> tuple[int, int]:
    """What the numbers of a box are divided by, across and down."""
    from vlcore.media import read_size

    if kind != "real":
        return (1000, 1000) if kind == "norm_1000" else (1, 1)
    at = item.get("image", 0)
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < len(pictures):
        raise site.fault(f"{field}.image", f"there is no picture {show(at)} in this row", "count its pictures from 0")
    try:
        return read_size(pictures[at])
    except MediaError as error:
        raise site.fault(f"{field}.image", f"{error.given}: {error.why}", error.do) from error


def _read_box(numbers: Any, width: int, height: int, field: str, site: Site) -> Box:
    from vlcore.boxes import Box

    is_box = isinstance(numbers, list) and len(numbers) == 4
    if not is_box or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise site.fault(f"{field}.bbox", "it is not four numbers", "write [x_min, y_min, x_max, y_max]")
    left, top, right, bottom = numbers
    # Compared before they are divided: JSON has numbers that a float has not.
    if not all(0 <= number <= edge for number, edge in zip(numbers, (width, height) * 2, strict=True)):
        why = f"{show(numbers)} lies outside its picture"
        raise site.fault(f"{field}.bbox", why, "check bbox_type and the numbers")
    if left > right or top > bottom:
        why = f"{show(numbers)} ends before it begins"
        raise site.fault(f"{field}.bbox", why, "write [x_min, y_min, x_max, y_max]")
    return Box(((left / width, top / height), (right / width, bottom / height)))
