from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image as PilImage
from vlcore.errors import MediaError
from vlcore.media import Size, Slot, normalise, open_image
from vlcore.messages import Image
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions
from vlcore_yi_vl.media import SquareProcessor


@pytest.fixture
def squares(recorded: Checkpoint) -> SquareProcessor:
    return SquareProcessor.read(recorded)


def plan_of(processor: SquareProcessor, size: Size, **family: str) -> object:
    return processor.plan([Slot((Image("a.png"),), (size,))], EncodeOptions(family=family))[0].detail


def test_the_vision_folder_names_sizes_and_colours(squares: SquareProcessor) -> None:
    assert (squares.edge, squares.crop, squares.tokens, squares.aspect) == (56, 56, 16, "pad")
    assert squares.mean[0] == 0.48145466 and squares.image_token_id == -200


def test_a_slot_takes_its_tokens_for_every_picture(squares: SquareProcessor) -> None:
    slot = Slot((Image("a.png"), Image("b.png")), ((10, 20), (30, 30)))
    (plan,) = squares.plan([slot], EncodeOptions())
    assert (plan.tokens, plan.tiles, plan.detail) == (32, (1, 1), True)


def test_the_configuration_pads_unless_the_option_says_otherwise(squares: SquareProcessor) -> None:
    assert plan_of(squares, (20, 10)) is True
    assert plan_of(squares, (20, 10), image_aspect_ratio="square") is False
    assert plan_of(replace(squares, aspect="None"), (20, 10)) is False
    assert plan_of(replace(squares, aspect="None"), (20, 10), image_aspect_ratio="pad") is True


@pytest.mark.parametrize(("size", "fitted"), [((640, 480), (74, 56)), ((480, 641), (56, 74)), ((9, 9), (56, 56))])
def test_the_shorter_side_is_fitted_and_the_longer_rounded_down(
    size: Size, fitted: Size, squares: SquareProcessor
) -> None:
    assert squares.fit(size) == fitted


def test_odd_lines_go_to_the_bottom_and_the_right(squares: SquareProcessor) -> None:
    grey = (122, 116, 104)
    wide = squares.pad_square(PilImage.new("RGB", (4, 1), "white"))
    assert [wide.getpixel((0, y)) for y in range(4)] == [grey, (255, 255, 255), grey, grey]
    tall = squares.pad_square(PilImage.new("RGB", (1, 4), "white"))
    assert [tall.getpixel((x, 0)) for x in range(4)] == [grey, (255, 255, 255), grey, grey]


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", ["cat", "cat_portrait", "strip_tall", "coffee_wide", "page"])
def test_pixels_are_those_of_transformers_on_pillow(
    name: str, padded: bool, squares: SquareProcessor, photo: Callable[[str], Path]
) -> None:
    from transformers import CLIPImageProcessorPil

    image = open_image(Image(photo(name)))
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    given = squares.pad_square(image) if padded else image
    expected = theirs(given, return_tensors="pt")["pixel_values"]
    (plan,) = squares.plan(
        [Slot((Image(photo(name)),), (image.size,))],
        EncodeOptions(family={"image_aspect_ratio": "pad" if padded else "square"}),
    )
    pixels = normalise(squares, squares.load([image], plan))["pixel_values"]
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)


def test_bytes_are_normalised_with_the_bits_of_the_release(squares: SquareProcessor) -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (squares.mean, squares.deviation))
    assert torch.equal(squares.normalise({"a": every})["a"], (every * squares.scale - mean) / deviation)


def test_another_filter_than_bicubic_is_pillows_own(squares: SquareProcessor) -> None:
    picture = PilImage.linear_gradient("L").convert("RGB").resize((150, 100))
    bilinear = replace(squares, resample=int(PilImage.Resampling.BILINEAR))
    expected = picture.resize((84, 56), PilImage.Resampling.BILINEAR).crop((14, 0, 70, 56))
    assert bilinear.cut(picture, False).permute(1, 2, 0).flatten().tolist() == list(expected.tobytes())


@pytest.mark.parametrize(("padded", "size"), [("pad", (20000, 3)), ("square", (10**7, 2))])
def test_a_picture_that_would_grow_too_large_is_refused_before_it_is_decoded(
    padded: str, size: Size, squares: SquareProcessor
) -> None:
    with pytest.raises(MediaError, match="make it smaller"):
        plan_of(squares, size, image_aspect_ratio=padded)
