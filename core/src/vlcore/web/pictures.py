"""Uploaded pictures: looked at before they are kept, and made small for the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlcore.errors import MediaError, show
from vlcore.media import open_image
from vlcore.messages import Image
from vlcore.serve.pictures import check_picture
from vlcore.web.settings import WebConfig

if TYPE_CHECKING:
    from PIL import Image as PilImage

#: Longest edge in pixels of a picture in a question, and of one with boxes in it.
SMALL, LARGE = 320, 960


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that was uploaded.

    Attributes:
        name: the name of its file.
        data: its bytes.
        preview: it in small, as a data URL.
    """

    name: str
    data: bytes
    preview: str


def read_upload(name: str, data: bytes, config: WebConfig) -> Upload:
    """A picture within the limits.

    Args:
        name: what the browser calls the file.
        data: its bytes.
        config: the limits.

    Raises:
        MediaError: when it is no picture, damaged or too large.
    """
    if len(data) > config.max_image_bytes:
        raise MediaError(f"image {show(name)}", f"it exceeds {config.max_image_bytes} bytes", "make it smaller")
    check_picture(data, name, config.max_pixels)
    try:
        return Upload(name, data, write_preview(open_image(Image(data)), SMALL))
    except MediaError as error:
        raise MediaError(f"image {show(name)}", error.why, error.do) from error


def write_preview(picture: PilImage.Image, edge: int) -> str:
    """A picture, no edge longer than this, as the data URL of a JPEG."""
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((edge, edge))
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
