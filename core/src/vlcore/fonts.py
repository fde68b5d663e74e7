"""A font that has the signs of a text, for labels on pictures."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

#: Fonts of many signs by the names of their files; Pillow looks for them where systems keep fonts.
FILES = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "SourceHanSansCN-Regular.otf", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "uming.ttc", "msyh.ttc", "simsun.ttc", "PingFang.ttc", "Arial Unicode.ttf",
)
#: No font has a sign for it, so each draws what it draws for signs it lacks.
_NOTHING = "\U0010ffff"


def choose_font(text: str, size: int) -> Font:
    """Pillow's own font where it has all signs of a text, else the one of the system that lacks fewest of them.

    Warns when none has all.

    Args:
        text: what will be written.
        size: in pixels.
    """
    signs = {sign for sign in text if not sign.isspace()}
    best, fewest = None, len(signs) + 1
    for font in _list_fonts(signs, size):
        lacking = sum(not has_sign(font, sign) for sign in signs)
        if not lacking:
            return font
        best, fewest = (font, lacking) if lacking < fewest else (best, fewest)
    warnings.warn("labels: no font of this system has all their signs, boxes stand for those it lacks; "
                  "install one that has them, such as Noto Sans CJK", stacklevel=2)
    assert best is not None  # Pillow's own is always there
    return best


def has_sign(font: Font, sign: str) -> bool:
    """Whether a font draws a sign as anything but its stand-in."""
    return _draw(font, sign) != _draw(font, _NOTHING)


def _draw(font: Font, sign: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(sign)
    return mask.size, bytes(mask)


def _list_fonts(signs: Collection[str], size: int) -> Iterator[Font]:
    from PIL import ImageFont

    yield ImageFont.load_default(size)
    rare = "".join(sorted(sign for sign in signs if ord(sign) > 127))
    for file in (find_bundled(), ask_system(rare), *FILES):
        try:
            yield ImageFont.truetype(file, size)
        except OSError:
            continue


def find_bundled() -> str:
    """The file of the font that comes with matplotlib: Latin, Greek, Cyrillic and many signs, none of East Asia."""
    from matplotlib import get_data_path

    return f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"


@lru_cache
def ask_system(signs: str) -> str:
    """The file of the font that fontconfig would take for some signs; empty where there is no fontconfig."""
    command = shutil.which("fc-match")
    if not command:
        return ""
    wanted = ":charset=" + " ".join(f"{ord(sign):x}" for sign in signs[:200])
    done = subprocess.run([command, "-f", "%{file}", wanted], capture_output=True, text=True, timeout=20, check=False)
    return done.stdout.strip()
