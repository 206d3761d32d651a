"""Streams: sample i depends on the stream's name and on i, and on nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fmbench.randomness import BLOCK, generator, seed_of, stream

LENGTH = 4 * BLOCK + 100
place = st.one_of(st.integers(0, LENGTH), st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, LENGTH]))


def normal(n: int, rng: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=rng)


WHOLE = stream(normal, 0, LENGTH, "test", 1)


@given(a=place, b=place)
def test_every_slice_is_cut_from_the_same_stream(a: int, b: int) -> None:
    start, stop = sorted((a, b))
    cut = stream(normal, start, stop, "test", 1)
    assert cut.shape == (stop - start, 2)
    assert torch.equal(cut, WHOLE[start:stop])


def test_draws_come_in_whole_blocks() -> None:
    """Whatever is asked for, so that a draw which does not nest in n nests all the same."""
    asked = []

    def draw(n: int, rng: torch.Generator) -> Tensor:
        asked.append(n)
        return normal(n, rng).flip(0)  # its first sample is the last drawn

    many = stream(draw, 0, 3000, "x")
    assert torch.equal(stream(draw, 5, 7, "x"), many[5:7])
    assert set(asked) == {BLOCK}


def test_samples_do_not_repeat() -> None:
    assert len(WHOLE.unique(dim=0)) == LENGTH


names = st.lists(st.one_of(st.integers(-3, 2**63), st.text(max_size=5)), min_size=1, max_size=4).map(tuple)


@given(a=names, b=names)
def test_other_names_are_other_streams(a: tuple, b: tuple) -> None:
    assert 0 <= seed_of(*a) < 2**63
    assert (seed_of(*a) == seed_of(*b)) == (a == b)


@pytest.mark.parametrize(
    ("a", "b"), [((1,), ("1",)), (("a", 12), ("a", 1, 2)), ((1, 2), (2, 1)), (("ab",), ("a", "b"))]
)
def test_names_that_look_alike_are_told_apart(a: tuple, b: tuple) -> None:
    assert seed_of(*a) != seed_of(*b)


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    stream(normal, 0, 10, "test", 1)
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        assert torch.equal(stream(normal, 0, 10, "test", 1), WHOLE[:10])


def test_frozen() -> None:
    """Every result of every suite hangs on these numbers: if they change, all versions of all stages must rise."""
    assert BLOCK == 1024
    assert seed_of("noise", 0) == 3450061844802730155
    assert torch.randint(10**6, (3,), generator=generator("noise", 0)).tolist() == [600941, 103922, 106629]
