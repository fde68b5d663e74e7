from __future__ import annotations

import numpy
import pytest
from vlcore.errors import DataError
from vlcore.packing import pack_rows


def draw_lengths(rows: int, size: int) -> numpy.ndarray:
    chance = numpy.random.default_rng(0)
    return numpy.exp(chance.normal(5.5, 0.8, rows)).astype(int).clip(1, size)


@pytest.mark.parametrize("longest", [5, 30, 60])
@pytest.mark.parametrize("rows", [1, 2, 17, 300])
def test_every_row_is_in_one_pack_and_no_pack_is_too_full(rows: int, longest: int) -> None:
    for seed in range(10):
        lengths = numpy.random.default_rng(seed).integers(1, longest + 1, rows)
        packs = pack_rows(lengths, 60, seed)
        assert sorted(row for pack in packs for row in pack.tolist()) == list(range(rows))
        loads = sorted(int(lengths[pack].sum()) for pack in packs)
        assert loads[0] > 0
        assert loads[-1] <= 60
        assert len(loads) == 1 or loads[0] + loads[1] > 60, "one pack would have done for two"


def test_a_row_goes_where_it_leaves_the_least_space() -> None:
    lengths = numpy.array([7, 5, 3])
    packed = {tuple(sorted(lengths[pack].tolist())) for seed in range(9) for pack in pack_rows(lengths, 10, seed)}
    assert packed == {(3, 7), (5,), (3, 5), (7,)}
    assert all(len(pack_rows(lengths, 10, seed)) == 2 for seed in range(9))


def test_seeds_decide_and_arguments_stay_as_they_are() -> None:
    lengths = draw_lengths(500, 512)
    before = lengths.copy()
    first, again, other = (pack_rows(lengths, 512, seed) for seed in (1, 1, 2))
    assert first.rows.tolist() == again.rows.tolist() and first.starts.tolist() == again.starts.tolist()
    assert first.rows.tolist() != other.rows.tolist()
    assert (lengths == before).all()


def test_packs_are_nearly_full_and_mix_lengths() -> None:
    lengths = draw_lengths(20_000, 2048)
    packs = pack_rows(lengths, 2048, 42)
    assert packs.fill > 0.98
    short = lengths < numpy.median(lengths)
    assert not any(short[pack].all() for pack in packs)  # of sorted rows, a fifth of the packs would be so


def test_the_summary_counts_rows_and_packs() -> None:
    assert pack_rows([30, 30, 30], 60, 0).summary == "3 rows in 2 packs of 60 tokens, 75.0% full, 1.5 rows each"


def test_a_row_above_the_size_is_refused() -> None:
    with pytest.raises(DataError, match="row 1 of 61 tokens: a pack holds 60; raise --max_length"):
        pack_rows([3, 61], 60, 0)


def test_a_pack_is_asked_for_by_its_number() -> None:
    packs = pack_rows([30, 40, 50], 60, 0)
    assert len(packs) == len(list(packs)) == 3
    with pytest.raises(IndexError):
        packs[3]
