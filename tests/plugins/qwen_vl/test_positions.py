from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache
from vlcore.batch import measure_lengths
from vlcore_qwen_vl.language import QwenConfig
from vlcore_qwen_vl.positions import Stretch, choose_alphas, choose_growth

TRAINED = 320


def count(*lengths: int) -> torch.Tensor:
    """Positions of rows padded on the left to the longest."""
    longest = max(lengths)
    return torch.tensor([[0] * (longest - n) + list(range(n)) for n in lengths])


@pytest.fixture
def stretch() -> Stretch:
    config = QwenConfig(
        head_dim=8, seq_length=TRAINED, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}
    )
    return Stretch(config).eval()


@pytest.mark.parametrize("length, alpha", [
    (1, 1), (320, 1), (321, 3), (640, 3), (641, 7), (1280, 7), (1281, 15), (2560, 15), (2561, 31),
])
def test_the_factor_is_that_of_the_releases_formula(length: int, alpha: int) -> None:
    assert max(2 ** math.ceil(math.log(length / TRAINED, 2) + 1) - 1, 1) == alpha
    assert set(choose_alphas(count(length), None, TRAINED)[0].tolist()) == {alpha}


def test_each_row_of_a_batch_and_each_packed_conversation_has_its_own_factor() -> None:
    alphas = choose_alphas(count(300, 700), None, TRAINED)
    assert alphas[0, -1] == 1 and alphas[1, -1] == 7
    packed = torch.cat([count(400), count(10)], dim=1)
    assert choose_alphas(packed, None, TRAINED)[0, [0, 399, 400]].tolist() == [3, 3, 1]
    assert measure_lengths(count(2, 4)).tolist() == [[1, 1, 2, 2], [4, 4, 4, 4]]


def test_an_answer_keeps_the_factor_of_its_prompt_across_the_border() -> None:
    cache, other = DynamicCache(), DynamicCache()
    for kept, length in ((cache, 319), (other, 700)):
        choose_alphas(count(length), kept, TRAINED)
        kept.update(torch.zeros(1, 1, length, 4), torch.zeros(1, 1, length, 4), 0)
    assert choose_alphas(torch.tensor([[330]]), cache, TRAINED).tolist() == [[1]]
    assert choose_alphas(torch.tensor([[700]]), other, TRAINED).tolist() == [[7]]


def test_an_emptied_cache_takes_the_factor_of_its_next_prompt() -> None:
    cache = DynamicCache()
    choose_alphas(count(700), cache, TRAINED)
    assert choose_alphas(count(5), cache, TRAINED)[0, 0] == 1


def test_frequencies_are_those_of_the_stretched_base(stretch: Stretch) -> None:
    for alpha in (1, 3, 7):
        base = 10000 * alpha ** (8 / 6)
        expected = [1 / base ** (exponent / 8) for exponent in (0, 2, 4, 6)]
        assert stretch.choose_frequencies(torch.tensor([[alpha]]))[0, 0].tolist() == pytest.approx(expected, rel=1e-6)


def test_queries_grow_with_the_logarithm_of_their_place_beyond_the_trained_length() -> None:
    growth = choose_growth(torch.tensor([[0, 318, 319, 320, 999]]), TRAINED)[0].tolist()
    assert growth == pytest.approx([1, 1, 1, math.log(321, 320), math.log(1000, 320)])


def test_training_and_switched_off_settings_stretch_nothing(stretch: Stretch) -> None:
    x, positions = torch.zeros(1), count(400)
    alphas = choose_alphas(positions, None, TRAINED)
    plain = stretch(x, positions, torch.ones_like(alphas))
    assert stretch(x, positions, alphas)[2] is not None and not torch.equal(stretch(x, positions, alphas)[0], plain[0])
    trained = stretch.train()(x, positions, alphas)
    assert trained[2] is None and torch.equal(trained[0], plain[0])
    stretch.eval().config.use_dynamic_ntk = stretch.config.use_logn_attn = False
    off = stretch(x, positions, alphas)
    assert off[2] is None and torch.equal(off[0], plain[0])
