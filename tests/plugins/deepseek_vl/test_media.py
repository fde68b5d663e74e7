from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as PilImage
from vlcore.media import Slot, normalise
from vlcore.messages import Image
from vlcore.model import build_frontend
from vlcore.resolve import Checkpoint
from vlcore.template import EncodeOptions
from vlcore_deepseek_vl.media import CLIP_MEAN, CLIP_STD, SquareProcessor, fit_size

PICTURE = PilImage.linear_gradient("L").resize((60, 40)).convert("RGB")
PROCESSOR = SquareProcessor(edge=48, tokens=36, image_token_id=9, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def load(processor: SquareProcessor, picture: PilImage.Image) -> torch.Tensor:
    (plan,) = processor.plan([Slot((Image(picture),), (picture.size,))], EncodeOptions())
    return normalise(processor, processor.load([picture], plan))["pixel_values"]


@pytest.mark.parametrize(
    ("size", "edge", "fitted"),
    [
        ((451, 300), 192, (192, 127)),  # rounding would give 128
        ((600, 400), 1024, (1024, 682)),  # rounding would give 683
        ((600, 400), 384, (384, 256)),
        ((300, 300), 384, (384, 384)),
        ((600, 12), 384, (384, 14)),
        ((11, 400), 192, (14, 192)),
        ((1, 1), 384, (384, 384)),
    ],
)
def test_sides_are_cut_to_whole_pixels_and_thin_pictures_widened(
    size: tuple[int, int], edge: int, fitted: tuple[int, int]
) -> None:
    assert fit_size(size, edge, 14) == fitted


def test_every_picture_takes_the_same_number_of_positions() -> None:
    slots = [Slot((Image(PICTURE),), (size,)) for size in ((60, 40), (4000, 10), (7, 9))]
    plans = PROCESSOR.plan(slots, EncodeOptions())
    assert {(plan.tokens, plan.tiles) for plan in plans} == {(36, (1,))}


def test_pixels_are_the_resized_picture_in_a_square_of_its_mean_colour() -> None:
    pixels = load(PROCESSOR, PICTURE)
    resized = PICTURE.resize((48, 32), PilImage.Resampling.BICUBIC)
    inner = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8).view(32, 48, 3).permute(2, 0, 1)
    assert pixels.shape == (1, 3, 48, 48) and pixels.dtype == torch.float32
    torch.testing.assert_close(pixels[0, :, 8:40], inner.float() / 127.5 - 1)
    torch.testing.assert_close(pixels[0, :, :8], torch.full((3, 8, 48), 127 / 127.5 - 1))


def test_an_odd_pixel_of_padding_goes_below() -> None:
    processor = SquareProcessor(edge=48, tokens=36, image_token_id=9, normalize=False, mean=(0.0, 0.0, 0.0))
    rows = load(processor, PilImage.new("RGB", (48, 33), "white"))[0].amax((0, 2))
    assert (rows[:7] == 0).all() and (rows[7:40] == 1).all() and (rows[40:] == 0).all()


def test_pixels_that_the_model_normalises_stay_between_0_and_1() -> None:
    processor = SquareProcessor(edge=48, tokens=36, image_token_id=9, mean=CLIP_MEAN, std=CLIP_STD, normalize=False)
    pixels = load(processor, PICTURE)
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert (pixels[0, :, 0, 0] * 255).round().tolist() == [122, 116, 104]


@pytest.mark.parametrize("rescale", [1 / 255, 0.00392156862745098, 1 / 127])
@pytest.mark.parametrize("normalize", [True, False])
def test_bytes_are_normalised_with_the_bits_of_the_release(normalize: bool, rescale: float) -> None:
    settings = {"mean": CLIP_MEAN, "std": CLIP_STD, "normalize": normalize, "rescale": rescale}
    processor = SquareProcessor(edge=48, tokens=36, image_token_id=9, **settings)
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    expected = (every.double() * rescale).float()
    if normalize:
        expected = (expected - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    assert torch.equal(processor.normalise({"a": every})["a"], expected)


def test_the_background_is_computed_whatever_the_file_says(tiny: Callable[..., Checkpoint], tmp_path: Path) -> None:
    given = json.loads((tiny().folder / "preprocessor_config.json").read_text(encoding="utf8"))

    def read(**changes: Any) -> SquareProcessor:
        for path in tiny().folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        changed = {key: value for key, value in {**given, **changes}.items() if value != "absent"}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(changed), encoding="utf8")
        checkpoint = Checkpoint(tmp_path, tiny().config, tiny().family, None, "deepseek_vl")
        return SquareProcessor.read(checkpoint, checkpoint.call("load_tokenizer"))

    assert read(background_color=[1, 2, 3]).background == (127, 127, 127)
    assert read(image_mean=list(CLIP_MEAN)).background == (122, 116, 104)
    assert read(image_mean=None).background == (127, 127, 127)
    absent = read(image_mean="absent", image_std="absent", min_size="absent", do_normalize="absent")
    assert (absent.mean, absent.std, absent.min_size, absent.normalize) == (CLIP_MEAN, CLIP_STD, 14, True)


@pytest.mark.parametrize("hybrid", [False, True])
def test_grey_and_transparent_pictures_are_converted_plainly(hybrid: bool, tiny: Callable[..., Checkpoint]) -> None:
    from vlcore.messages import user

    frontend = build_frontend(tiny(hybrid))
    grey, clear = PICTURE.convert("L"), PICTURE.convert("RGBA")
    clear.putalpha(3)
    pixels = frontend.encode([user("", [PICTURE, grey, clear])]).pixels["pixel_values"]
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
