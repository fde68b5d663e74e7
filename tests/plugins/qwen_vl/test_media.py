from __future__ import annotations

import pytest
import torch
from PIL import Image as PilImage
from vlcore.media import Plan, Slot, normalise
from vlcore.messages import Image
from vlcore.template import EncodeOptions
from vlcore_qwen_vl.media import DEVIATION, MEAN, SquareProcessor, squeeze


@pytest.fixture
def processor() -> SquareProcessor:
    return SquareProcessor(edge=28, tokens=16, image_token_id=5)


def test_every_picture_takes_the_same_positions_whatever_its_size(processor: SquareProcessor) -> None:
    slots = [Slot((Image("a"),), ((1, 1000),)), Slot((Image("b"), Image("c")), ((28, 28), (5000, 3)))]
    assert processor.plan(slots, EncodeOptions()) == (Plan(16, (1,)), Plan(32, (1, 1)))


def test_the_processor_reads_edge_positions_and_id_from_the_checkpoint(tiny) -> None:
    read = SquareProcessor.read(tiny(), 7)
    assert (read.edge, read.tokens, read.image_token_id) == (56, 16, 7)


def test_a_picture_of_one_colour_becomes_that_colour_normalised(processor: SquareProcessor) -> None:
    picture = PilImage.new("RGB", (7, 91), (255, 0, 51))
    loaded = processor.load([picture, picture], Plan(32, (1, 1)))
    assert loaded["pixel_values"].dtype == torch.uint8
    pixels = normalise(processor, loaded)["pixel_values"]
    assert pixels.shape == (2, 3, 28, 28) and pixels.dtype == torch.float32
    expected = [(value - mean) / spread for value, mean, spread in zip((1.0, 0.0, 0.2), MEAN, DEVIATION, strict=True)]
    assert torch.allclose(pixels[1, :, 3, 4], torch.tensor(expected), atol=1e-6)


def test_bytes_are_normalised_with_the_bits_of_the_release(processor: SquareProcessor) -> None:
    every = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    assert torch.equal(processor.normalise({"a": every})["a"], (every.float() / 255 - mean) / deviation)


def test_resizing_is_pillows_bicubic_on_bytes() -> None:
    picture = PilImage.linear_gradient("L").convert("RGB").crop((0, 0, 100, 60))
    expected = picture.resize((28, 28), PilImage.Resampling.BICUBIC)
    squeezed = squeeze(picture, 28)
    assert squeezed.dtype == torch.uint8
    assert squeezed.permute(1, 2, 0).flatten().tolist() == list(expected.tobytes())
