"""How fast lengths are known from image headers: `read_size`, then InternVL's plan, on one core.

    python benchmarks/headers.py [--count FILES] [--small]

The files are the two photographs of scikit-learn at 640 x 427, 1600 x 1200 and 4032 x 3024, as JPEG and PNG, and as
JPEG with a camera's EXIF block (orientation, resolution, a thumbnail of 8 kB). Each file is a copy of its own on disk,
read once before so that it lies in the page cache: what is measured is the reading of headers, not the disk. Seconds
are those of the processor, in user and kernel, of the best of five runs: what other processes take is no part of it.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import sklearn.datasets
from PIL import Image as PilImage
from vlcore.media import Slot, read_size
from vlcore.messages import Image
from vlcore.template import EncodeOptions
from vlcore_internvl.media import TileProcessor

SIZES = ((640, 427), (1600, 1200), (4032, 3024))
RUNS = 5
PROCESSOR = TileProcessor(tile=448, tile_tokens=256, image_token_id=0)
OPTIONS = EncodeOptions()


def make_exif() -> PilImage.Exif:
    """What a camera writes, with as many bytes of a comment as a thumbnail would take."""
    exif = PilImage.Exif()
    exif.update({0x0112: 1, 0x011A: 72.0, 0x011B: 72.0, 0x0128: 2, 0x010F: "Maker", 0x0110: "Model"})
    exif.get_ifd(0x8769)[0x9286] = b"\0" * 8192
    return exif


def write_photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> dict[str, list[Path]]:
    """One file of each photograph and size, by kind."""
    source = Path(sklearn.datasets.__file__).parent / "images"
    files: dict[str, list[Path]] = {"JPEG": [], "JPEG with EXIF": [], "PNG": []}
    for name, size in itertools.product(("china", "flower"), sizes):
        picture = PilImage.open(source / f"{name}.jpg").resize(size, PilImage.Resampling.BILINEAR)
        stem = folder / f"{name}_{size[0]}"
        picture.save(stem.with_suffix(".jpg"), quality=90)
        picture.save(stem.with_suffix(".exif.jpg"), quality=90, exif=make_exif())
        picture.save(stem.with_suffix(".png"), compress_level=1)
        for kind, suffix in zip(files, (".jpg", ".exif.jpg", ".png"), strict=True):
            files[kind].append(stem.with_suffix(suffix))
    return files


def copy_files(files: Sequence[Path], count: int, folder: Path) -> list[Path]:
    """Copies of the files in turn, each read once."""
    copies = [folder / f"{number}_{path.name}" for number, path in zip(range(count), itertools.cycle(files))]
    for copy, path in zip(copies, itertools.cycle(files), strict=False):
        shutil.copyfile(path, copy)
    return copies


def plan(paths: Sequence[Path]) -> int:
    """Positions that all pictures take."""
    tokens = 0
    for path in paths:
        image = Image(str(path))
        tokens += PROCESSOR.plan([Slot((image,), (read_size(image),))], OPTIONS)[0].tokens
    return tokens


def measure(paths: Sequence[Path]) -> float:
    """Headers a second of processor time in the best of the runs."""
    best = float("inf")
    for _ in range(RUNS):
        start = time.process_time()
        assert plan(paths) > 0
        best = min(best, time.process_time() - start)
    return len(paths) / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="files of each kind")
    parser.add_argument("--small", action="store_true", help="the smallest size alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for kind, files in write_photographs(Path(folder), SIZES[:1] if given.small else SIZES).items():
            copies = copy_files(files, given.count, Path(folder))
            print(f"{kind}: {measure(copies):,.0f} headers a second")


if __name__ == "__main__":
    main()
