"""Standard errors mean what they say: closed forms, and coverage by simulation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fmbench.randomness import generator
from fmbench.statistics import Estimate, combine, holm, interval, mean, ratio, root

REPLICATIONS = 2000
COVERAGE = pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / REPLICATIONS) + 0.01)  # binomial error + non-normality


def covered(estimates: list[Estimate], truth: float) -> float:
    return sum(low <= truth <= high for low, high in map(interval, estimates)) / len(estimates)


def test_mean_and_its_error() -> None:
    assert mean(torch.tensor([1.0, 2.0, 3.0, 6.0])) == Estimate(3.0, math.sqrt(14 / 3 / 4), 4)
    assert mean(torch.tensor([1.0])) == Estimate(1.0, math.inf, 1)


def test_intervals_cover() -> None:
    x = torch.empty(REPLICATIONS, 80, dtype=torch.float64).exponential_(generator=generator("coverage"))
    y = 0.5 * x + torch.empty_like(x).exponential_(generator=generator("other"))
    assert covered([mean(row) for row in x], 1.0) == COVERAGE
    assert covered([root(mean(row)) for row in x], 1.0) == COVERAGE
    assert covered([ratio(a, b) for a, b in zip(y, x, strict=True)], 1.5) == COVERAGE
    naive = [Estimate(ratio(a, b).value, mean(a).stderr / b.mean().item(), 80) for a, b in zip(y, x, strict=True)]
    assert covered(naive, 1.5) != COVERAGE  # the broken twin: forgets that the bottom varies, too


def test_ratio_of_proportional_samples_is_certain() -> None:
    x = torch.arange(1.0, 9.0)
    assert ratio(3 * x, x) == Estimate(3.0, 0.0, 8)
    assert math.isnan(ratio(x, torch.zeros(8)).value)
    assert ratio(x, torch.zeros(8)).stderr == math.inf


def test_root_has_no_error_at_zero() -> None:
    assert root(Estimate(4.0, 1.0, 9)) == Estimate(2.0, 0.25, 9)
    assert root(Estimate(0.0, 0.0, 9)).stderr == math.inf


def test_interval_of_undefined_error_is_the_whole_line() -> None:
    assert interval(Estimate(1.0, math.inf, 1)) == (-math.inf, math.inf)
    assert interval(Estimate(1.0, math.nan, 1)) == (-math.inf, math.inf)
    low, high = interval(Estimate(1.0, 2.0, 9), level=0.9)
    assert (low, high) == pytest.approx((1 - 2 * 1.6448536, 1 + 2 * 1.6448536))


def test_combined_seeds_cover_when_samples_are_shared() -> None:
    """Seed effects differ, the evaluation's noise is common: the interval must hold both."""
    seeds, within = 12, 0.8
    effect = torch.randn(REPLICATIONS, seeds, generator=generator("seeds"))
    common = within * torch.randn(REPLICATIONS, 1, generator=generator("common"))
    runs = [[Estimate(v, within, 50) for v in row] for row in (effect + common).tolist()]
    combined = [combine(run) for run in runs]
    assert covered(combined, 0.0) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / REPLICATIONS) + 0.02)
    averaged_away = [Estimate(c.value, math.sqrt(c.stderr**2 - within**2 * (1 - 1 / seeds)), c.n) for c in combined]
    assert covered(averaged_away, 0.0) < 0.8


def test_three_dominating_seeds_still_cover() -> None:
    """Two degrees of freedom: a normal interval would hold the truth only about 81 % of the time."""
    effect = torch.randn(REPLICATIONS, 3, generator=generator("few seeds"))
    combined = [combine([Estimate(v, 0.01, 50) for v in row]) for row in effect.tolist()]
    assert covered(combined, 0.0) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / REPLICATIONS) + 0.005)
    normal = [Estimate(c.value, c.stderr, c.n) for c in combined]
    assert covered(normal, 0.0) < 0.9


def test_combine_at_the_edges() -> None:
    one = Estimate(2.0, 0.5, 10)
    assert combine([one]) == one
    assert combine([one, Estimate(4.0, 0.5, 10)]) == Estimate(3.0, math.sqrt(2 / 2 + 0.25), 20, freedom=1.25**2)
    assert combine([one, Estimate(2.0, math.inf, 1)]).stderr == math.inf
    assert math.isnan(combine([one, Estimate(math.nan, math.inf, 1)]).value)
    with pytest.raises(ValueError, match="no estimates"):
        combine([])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, math.nan])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_order_and_never_helps(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(raw <= after <= 1 for raw, after in zip(p, adjusted, strict=True))
    pairs = sorted(zip(p, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(adjusted)
