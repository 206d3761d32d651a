"""Time laws: what every one must keep, and that the uniform one is uniform."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import kstest

from fmbench.flow.times import TIMES
from fmbench.randomness import generator


@pytest.mark.parametrize("name", TIMES.names())
def test_every_law_draws_times_from_its_generator_alone(name: str) -> None:
    law, state = TIMES.build(name), torch.get_rng_state()
    t = law.draw(10_000, generator("a"))
    assert t.shape == (10_000,)
    assert t.dtype == torch.float64
    assert t.min() >= 0
    assert t.max() <= 1
    assert torch.equal(t, law.draw(10_000, generator("a")))
    assert not torch.equal(t, law.draw(10_000, generator("b")))
    assert torch.equal(state, torch.get_rng_state())
    assert TIMES.build(law.spec()) == law


def test_uniform() -> None:
    t = TIMES.build("uniform").draw(20_000, generator("uniform"))
    assert kstest(t.numpy(), "uniform").pvalue > 1e-4
    assert kstest(t.numpy() ** 1.1, "uniform").pvalue < 1e-4
