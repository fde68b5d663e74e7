"""The pictures of a row with the boxes that its texts hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlcore.boxes import Box, Grounding, draw_boxes
from vlcore.dataset import Row
from vlcore.doctor.findings import name_fault
from vlcore.errors import DataError, UsageError, VlcoreError
from vlcore.media import open_image
from vlcore.messages import Image

if TYPE_CHECKING:
    from PIL import Image as PilImage

    from vlcore.family import ModelFamily


def find_boxes(row: Row, grounding: Grounding) -> list[tuple[Image, tuple[Box, ...]]]:
    """The pictures of a row, each with its boxes: those of the texts behind it, up to the next turn with pictures.

    Texts do not say which of several pictures of a turn they mean, so boxes go to the last one.
    """
    found: list[tuple[Image, tuple[Box, ...]]] = []
    for message in row.messages:
        found += [(medium, ()) for medium in message.media if isinstance(medium, Image)]
        boxes = grounding.read(message.text)
        if found and boxes:
            picture, earlier = found[-1]
            found[-1] = picture, (*earlier, *boxes)
    return found


def draw_row(row: Row, family: ModelFamily) -> list[PilImage.Image]:
    """The pictures of a row with their boxes in them; none when the row has no boxes on pictures.

    Raises:
        UsageError: when models of the family write no boxes.
        DataError: naming file and line, when a picture cannot be read.
    """
    if family.grounding is None:
        raise UsageError(f"draw {row.source}:{row.line}", f"models of family {family.name} write no boxes",
                         "leave --draw out")
    found = find_boxes(row, family.grounding)
    if not any(boxes for _, boxes in found):
        return []
    try:
        return [draw_boxes(open_image(picture), boxes) for picture, boxes in found]
    except VlcoreError as error:
        fault = name_fault(row, error)
        raise DataError(fault.place, fault.why, fault.do) from error


def name_files(path: Path, count: int) -> list[Path]:
    """A file for each of some pictures: the name itself for one, `NAME-1.png` and so on for several."""
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(1, count + 1)]


def check_name(path: Path) -> None:
    """Raises UsageError for a name that no picture is written under."""
    from PIL import Image as PilImage

    if path.suffix.lower() not in PilImage.registered_extensions():
        raise UsageError(f"draw {path}", "no picture is written under such a name", "give a name such as out.png")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"draw {path}", f"there is no folder {path.parent}", "make it first")


def save_pictures(pictures: Sequence[PilImage.Image], path: Path, overwrite: bool) -> list[Path]:
    """Writes pictures and gives their files.

    Raises:
        UsageError: when one of the files is there and must not be replaced; then none is written.
    """
    files = name_files(path, len(pictures))
    there = [str(file) for file in files if file.exists()]
    if there and not overwrite:
        raise UsageError(f"draw {path}", f"{there[0]} is there already", "give another name, or --overwrite")
    for picture, file in zip(pictures, files, strict=True):
        part = file.with_stem(f".part-{file.stem}")
        picture.save(part)
        part.replace(file)
    return files
