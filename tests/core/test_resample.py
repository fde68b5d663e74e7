from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image as PilImage
from vlcore import resample
from vlcore.resample import has_loops, resize, takes_rows_first, weigh

PHOTO = Path(__file__).parents[1] / "parity" / "data" / "images" / "coffee.png"


def make_noise(width: int, height: int) -> PilImage.Image:
    """Black and white in each channel: sums that go far beyond both ends of a byte."""
    bits = numpy.random.default_rng(width * 1000 + height).integers(0, 2, (height, width, 3))
    return PilImage.fromarray((bits * 255).astype(numpy.uint8))


def resize_plainly(picture: PilImage.Image, size: tuple[int, int]) -> numpy.ndarray:
    return numpy.asarray(picture.resize(size, PilImage.Resampling.BICUBIC))


@pytest.fixture(params=["with numba", "without numba"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "with numba":
        pytest.importorskip("numba")
    else:
        monkeypatch.setitem(sys.modules, "vlcore.loops", None)
        monkeypatch.setitem(sys.modules, "numba", None)
    has_loops.cache_clear()
    request.addfinalizer(has_loops.cache_clear)
    return request.param == "with numba"


def test_loops_are_used_where_numba_is_installed(loops: bool) -> None:
    assert has_loops() is loops


@pytest.mark.parametrize("given", [(1, 1), (31, 33), (64, 64), (65, 32), (97, 5), (5, 97), (140, 100), (3, 400)])
def test_bytes_are_pillows_whatever_the_sizes(given: tuple[int, int], loops: bool) -> None:
    picture = make_noise(*given)
    for wanted in ((1, 1), (7, 200), (56, 56), (200, 7), given, (given[0], 30), (30, given[1]), (168, 112)):
        (found,) = resize(picture, [wanted])
        assert found.shape == (wanted[1], wanted[0], 3) and found.dtype == numpy.uint8
        assert numpy.array_equal(found, resize_plainly(picture, wanted)), wanted


def test_several_sizes_are_what_each_is_alone(loops: bool) -> None:
    with PilImage.open(PHOTO) as opened:
        picture = opened.convert("RGB")
    sizes = [(168, 112), (56, 56), (56, 56), (20, 300), (300, 3)]
    for found, size in zip(resize(picture, sizes), sizes, strict=True):
        assert numpy.array_equal(found, resize_plainly(picture, size))


def test_pictures_that_pillow_may_begin_with_the_columns_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(resample, "weigh", refuse)
    tall = make_noise(43, 64)
    assert not takes_rows_first(tall.size, (45, 45))
    assert numpy.array_equal(resize(tall, [(45, 45)])[0], resize_plainly(tall, (45, 45)))
    assert not takes_rows_first((2, 201), (2, 300))


def test_weights_of_a_pixel_sum_to_one() -> None:
    for given, wanted in ((640, 448), (3, 700), (4032, 448), (1, 1)):
        sums = weigh(given, wanted).factors.sum(axis=1)
        assert abs(sums - (1 << 22)).max() <= weigh(given, wanted).factors.shape[1]
