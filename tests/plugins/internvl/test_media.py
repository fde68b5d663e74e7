from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image as PilImage
from vlcore.errors import UsageError
from vlcore.media import Slot, normalise
from vlcore.messages import Image
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions
from vlcore_internvl.family import FAMILY
from vlcore_internvl.media import (
    DEVIATION,
    MEAN,
    TileProcessor,
    choose_grid,
    count_tiles,
    pad_square,
    sample_frames,
    sample_training_frames,
)

PICTURE = PilImage.linear_gradient("L").resize((150, 100)).convert("RGB")
PROCESSOR = TileProcessor(tile=56, tile_tokens=4, image_token_id=9)


def make_slot(*sizes: tuple[int, int], frame: bool = False) -> Slot:
    return Slot(tuple(Image(PilImage.new("RGB", size)) for size in sizes), sizes, frame)


def options(train: bool = False, **family: Any) -> EncodeOptions:
    return EncodeOptions(train=train, family=family)


@pytest.fixture(scope="module")
def read_case(recorded: Callable[[str], Checkpoint]) -> Callable[[str, str], dict[str, Any]]:
    def read(model: str, case: str) -> dict[str, Any]:
        path = recorded(model).folder.parent / "cases" / f"{case}.json"
        return dict(json.loads(path.read_text(encoding="utf8")))

    return read


@pytest.mark.parametrize(
    ("size", "most", "grid", "tiles"),
    [
        ((451, 300), 12, (3, 2), 7), ((640, 427), 4, (1, 1), 1), ((384, 191), 4, (2, 1), 3),
        ((633, 633), 12, (1, 1), 1), ((634, 634), 12, (2, 2), 5), ((800, 800), 6, (2, 2), 5),
        ((1000, 1000), 12, (3, 3), 10), ((4000, 3000), 12, (4, 3), 13), ((3000, 4000), 6, (2, 3), 7),
        ((1920, 1080), 12, (4, 2), 9), ((1080, 1920), 4, (1, 2), 3), ((1024, 768), 1, (1, 1), 1),
    ],
)  # fmt: skip
def test_grids_are_the_releases_at_448_pixels(
    size: tuple[int, int], most: int, grid: tuple[int, int], tiles: int
) -> None:
    assert choose_grid(size, 448, 1, most) == grid
    assert count_tiles(grid, thumbnail=True) == tiles


def test_frames_are_the_releases(read_case: Callable[[str, str], dict[str, Any]]) -> None:
    case = read_case("internvl2-8b", "video")
    for row in case["frame_index_examples"]:
        bound = tuple(row["bound"]) if row["bound"] else None
        found = sample_frames(row["num_frames"], row["fps"], row["num_segments"], bound)
        assert list(found) == row["indices"]
    for row in case["train_frame_index_examples_middle"]:
        assert list(sample_training_frames(row["num_frames_in_video"], row["num_frames"])) == row["indices"]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 700)])
def test_odd_pictures_stay_within_the_limit(size: tuple[int, int]) -> None:
    columns, rows = choose_grid(size, 448, 1, 12)
    assert 1 <= columns * rows <= 12


def test_a_plan_counts_tiles_thumbnail_and_positions() -> None:
    (plan,) = PROCESSOR.plan([make_slot((150, 100))], options(max_num=6))
    assert (plan.tokens, plan.tiles, plan.detail) == (7 * 4, (7,), ((3, 2),))


def test_training_shares_its_tiles_among_the_pictures_of_a_row() -> None:
    slots = [make_slot((150, 100)), make_slot((150, 100))]

    def count(wanted: EncodeOptions) -> list[tuple[int, ...]]:
        return [plan.tiles for plan in PROCESSOR.plan(slots, wanted)]

    assert count(options(train=True, max_dynamic_patch=4)) == [(3,), (3,)]
    assert count(options(train=True, max_num=6)) == [(7,), (7,)]
    assert count(options(max_num=6)) == [(7,), (7,)]


def test_many_pictures_keep_at_least_one_tile() -> None:
    slots = [make_slot((150, 100))] * 20
    assert {plan.tiles for plan in PROCESSOR.plan(slots, options(train=True))} == {(1,)}


def test_a_frame_is_one_tile_and_takes_no_share() -> None:
    slots = [make_slot((150, 100)), *[make_slot((150, 100), frame=True)] * 8]
    plans = PROCESSOR.plan(slots, options(train=True, max_dynamic_patch=6))
    assert [plan.tiles for plan in plans] == [(7,), *[(1,)] * 8]


def test_without_tiling_every_picture_is_one_tile() -> None:
    processor = TileProcessor(tile=56, tile_tokens=4, image_token_id=9, tiling=False)
    assert processor.plan([make_slot((500, 100))], options(max_num=12))[0].tiles == (1,)


def test_tiles_come_row_by_row_with_the_thumbnail_last() -> None:
    slot = Slot((Image(PICTURE),), (PICTURE.size,))
    (plan,) = PROCESSOR.plan([slot], options(max_num=6))
    pixels = normalise(PROCESSOR, PROCESSOR.load([PICTURE], plan))["pixel_values"]
    whole = PICTURE.resize((168, 112), PilImage.Resampling.BICUBIC)
    boxes = [(x, y, x + 56, y + 56) for y in (0, 56) for x in (0, 56, 112)]
    tiles = [whole.crop(box) for box in boxes] + [PICTURE.resize((56, 56), PilImage.Resampling.BICUBIC)]
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    for ours, tile in zip(pixels, tiles, strict=True):
        plain = torch.frombuffer(bytearray(tile.tobytes()), dtype=torch.uint8).view(56, 56, 3)
        assert torch.equal(ours, (plain.permute(2, 0, 1).float() / 255 - mean) / deviation)


def test_pixels_are_bytes_until_they_are_normalised_with_the_bits_of_the_release() -> None:
    (plan,) = PROCESSOR.plan([make_slot((150, 100))], options(max_num=6))
    loaded = PROCESSOR.load([PICTURE], plan)["pixel_values"]
    assert (loaded.shape, loaded.dtype) == ((7, 3, 56, 56), torch.uint8)
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    assert torch.equal(PROCESSOR.normalise({"a": every})["a"], (every.float() / 255 - mean) / deviation)
    assert torch.equal(every.flatten(), torch.arange(256, dtype=torch.uint8).repeat(3))


def test_combined_pictures_follow_each_other_each_with_its_thumbnail() -> None:
    slot = Slot((Image(PICTURE), Image(PICTURE)), (PICTURE.size, PICTURE.size))
    (plan,) = PROCESSOR.plan([slot], options(max_num=2))
    pixels = PROCESSOR.load([PICTURE, PICTURE], plan)["pixel_values"]
    assert plan.tiles == (3, 3) and torch.equal(pixels[:3], pixels[3:])


def test_an_uncut_picture_may_be_padded_to_a_square() -> None:
    square = pad_square(PilImage.new("RGB", (10, 4), "white"))
    assert square.size == (10, 10)
    assert square.getpixel((5, 2)) == (123, 116, 103) and square.getpixel((5, 3)) == (255, 255, 255)
    processor = TileProcessor(tile=56, tile_tokens=4, image_token_id=9, tiling=False, pad2square=True)
    (plan,) = processor.plan([make_slot((10, 4))], options())
    pixels = normalise(processor, processor.load([PilImage.new("RGB", (10, 4), "white")], plan))["pixel_values"]
    assert pixels[0, :, 0, 0].abs().max() < 0.02


def test_the_processor_is_read_from_the_configuration(tiny: Callable[..., Checkpoint]) -> None:
    processor = TileProcessor.read(tiny(), 7)
    assert (processor.tile, processor.tile_tokens, processor.image_token_id) == (56, 4, 7)
    assert processor.max_num == processor.max_dynamic_patch == 12
    assert processor.tiling and processor.thumbnail and not processor.pad2square


def test_frames_are_chosen_for_answering_and_for_training() -> None:
    assert PROCESSOR.choose_frames(300, 30.0, options()) == sample_frames(300, 30.0, 8)
    assert PROCESSOR.choose_frames(300, 30.0, options(num_segments=4)) == sample_frames(300, 30.0, 4)
    assert PROCESSOR.choose_frames(5, 1.0, options(train=True)) == sample_training_frames(5, 8)
    with pytest.raises(UsageError, match="num_segments=0"):
        FAMILY.read_options({"num_segments": 0})


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("wanted", [1, 2, 5, 8, 31])
@pytest.mark.parametrize("train", [False, True])
def test_chosen_frames_exist_and_are_as_many_as_wanted(count: int, wanted: int, train: bool) -> None:
    chosen = PROCESSOR.choose_frames(count, 25.0, options(train=train, num_segments=wanted))
    assert len(chosen) == wanted and min(chosen) >= 0 and max(chosen) < count
