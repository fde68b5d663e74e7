"""Decoding, tiling and normalising photographs for InternVL, against the way of its release, side by side.

    python benchmarks/tiles.py [--count ROUNDS] [--small]

Both ways start from a JPEG file in the page cache and end with float32 tensors: tiles of 448 pixels, up to 12, and the
thumbnail. The release decodes, copies to RGB, resizes the whole, crops each tile, and makes a tensor of a tile and
normalises it, tile by tile; its two torchvision transforms are written out here with the same operations. The
photographs are the two that come with scikit-learn, as they are (640 x 427) and enlarged to 1600 x 1200 and
4032 x 3024 (Lanczos, JPEG quality 90). One thread; the two take turns, and the medians of the rounds are compared.
With numba (extra `fast`) vlcore resizes in compiled loops, without it by Pillow; the first line says which.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import sklearn.datasets
import torch
from PIL import Image as PilImage
from vlcore.media import Slot, normalise, open_image, read_size
from vlcore.messages import Image
from vlcore.resample import has_loops
from vlcore.template import EncodeOptions
from vlcore_internvl.media import DEVIATION, MEAN, TileProcessor

EDGE = 448
SIZES = ((640, 427), (1600, 1200), (4032, 3024))
PROCESSOR = TileProcessor(tile=EDGE, tile_tokens=256, image_token_id=0)


def write_photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> dict[tuple[int, int], list[Path]]:
    """Files of each size."""
    source = Path(sklearn.datasets.__file__).parent / "images"
    files: dict[tuple[int, int], list[Path]] = {size: [] for size in sizes}
    for name in ("china.jpg", "flower.jpg"):
        picture = PilImage.open(source / name)
        files[picture.size].append(source / name)
        for size in sizes[1:]:
            path = folder / f"{size[0]}_{name}"
            picture.resize(size, PilImage.Resampling.LANCZOS).save(path, quality=90)
            files[size].append(path)
    return files


def load_as_vlcore(path: Path) -> torch.Tensor:
    image = Image(path)
    (plan,) = PROCESSOR.plan([Slot((image,), (read_size(image),))], EncodeOptions())
    return normalise(PROCESSOR, PROCESSOR.load([open_image(image)], plan))["pixel_values"]


def load_as_release(path: Path) -> torch.Tensor:
    picture = PilImage.open(path).convert("RGB")
    columns, rows = PROCESSOR.choose_grid(picture.size, PROCESSOR.max_num)
    whole = picture.resize((columns * EDGE, rows * EDGE))
    corners = [(x * EDGE, y * EDGE) for y in range(rows) for x in range(columns)]
    tiles = [whole.crop((x, y, x + EDGE, y + EDGE)) for x, y in corners]
    if len(tiles) > 1:
        tiles.append(picture.resize((EDGE, EDGE)))
    return torch.stack([normalise_tile(make_tensor(tile)) for tile in tiles])


def make_tensor(tile: PilImage.Image) -> torch.Tensor:
    """As `ToTensor`."""
    values = torch.from_numpy(numpy.array(tile, numpy.uint8, copy=True))
    return values.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalise_tile(tile: torch.Tensor) -> torch.Tensor:
    """As `Normalize`, not in place."""
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, DEVIATION))
    return tile.clone().sub_(mean).div_(deviation)


def measure(load: Callable[[Path], torch.Tensor], files: list[Path]) -> float:
    """Seconds to load all files once."""
    start = time.perf_counter()
    for path in files:
        load(path)
    return time.perf_counter() - start


def compare(files: list[Path], rounds: int) -> tuple[float, float]:
    """Seconds of a round by vlcore and as the release does: medians of rounds in which both take turns."""
    for path in files:  # warms files and loops up, too
        difference = (load_as_vlcore(path) - load_as_release(path)).abs().max()
        assert difference <= 1e-5, f"{path} differs by {difference}"
    pairs = [(measure(load_as_vlcore, files), measure(load_as_release, files)) for _ in range(rounds)]
    own, release = (statistics.median(side) for side in zip(*pairs, strict=True))
    return own, release


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=8, help="rounds of each size")
    parser.add_argument("--small", action="store_true", help="the photographs as they are alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"resizing {'in compiled loops' if has_loops() else 'by Pillow; the extra fast is not installed'}")
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder), SIZES[:1] if given.small else SIZES)
        seconds = {size: compare(paths, given.count) for size, paths in files.items()}
    for (width, height), (own, release) in seconds.items():
        count = len(files[width, height])
        print(f"{width} x {height}: {count / own:.1f} images a second, {release / own:.2f} of the release's speed")
    own, release = (sum(side) for side in zip(*seconds.values(), strict=True))
    count = sum(map(len, files.values()))
    print(f"as many of each: {count / own:.1f} images a second, {release / own:.2f} of the release's speed")


if __name__ == "__main__":
    main()
