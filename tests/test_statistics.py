"""Standard errors mean what they say: closed forms, and coverage by simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fmbench.randomness import generator
from fmbench.statistics import (
    Estimate,
    added,
    agresti_coull,
    bootstrap,
    combine,
    holm,
    holm_level,
    interval,
    mean,
    paired,
    ratio,
    redrawn,
    root,
    satterthwaite,
    within,
)

REPLICATIONS = 2000
BINOMIAL_2000 = 3 * math.sqrt(0.95 * 0.05 / REPLICATIONS)
COVERAGE = pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / REPLICATIONS) + 0.01)  # binomial error + non-normality


def covered(estimates: list[Estimate], truth: float) -> float:
    return sum(low <= truth <= high for low, high in map(interval, estimates)) / len(estimates)


def test_mean_and_its_error() -> None:
    assert mean(torch.tensor([1.0, 2.0, 3.0, 6.0])) == Estimate(3.0, math.sqrt(14 / 3 / 4), 4, freedom=3)
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
    assert ratio(3 * x, x) == Estimate(3.0, 0.0, 8, freedom=7)
    assert ratio(x.square(), -x).stderr == ratio(x.square(), x).stderr > 0
    assert math.isnan(ratio(x, torch.zeros(8)).value)
    assert ratio(x, torch.zeros(8)).stderr == math.inf


def test_root_has_no_error_at_zero() -> None:
    assert root(Estimate(4.0, 1.0, 9)) == Estimate(2.0, 0.25, 9)
    assert root(Estimate(0.0, 0.0, 9)).stderr == math.inf


def test_a_share_has_an_error_where_all_are_of_a_kind() -> None:
    """Agresti and Coull: of 6 in 12, 8 in 16; of none in 12, 2 in 16."""
    assert agresti_coull(6, 12) == pytest.approx(math.sqrt(1 / 2 * 1 / 2 / 16))
    assert agresti_coull(0, 12) == agresti_coull(12, 12) == pytest.approx(math.sqrt(1 / 8 * 7 / 8 / 16))


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
    few = Estimate(2.0, 0.5, 10, freedom=3)
    assert combine([few]) == few
    assert combine([few, few]).freedom == pytest.approx(3)  # on the same samples: two seeds make the error no surer
    assert combine([few, Estimate(4.0, 0.5, 10, freedom=3)]).freedom == pytest.approx(1.25**2 / (1 + 0.25**2 / 3))
    assert math.isnan(combine([one, Estimate(math.nan, math.inf, 1)]).value)
    with pytest.raises(ValueError, match="no estimates"):
        combine([])


def test_a_mean_of_few_units_covers_and_a_normal_interval_does_not() -> None:
    """Three timings, four minibatches: 1.96 standard errors hold the truth 81 and 85 times in a hundred."""
    for count, held in ((3, 0.81), (4, 0.85)):
        x = torch.randn(REPLICATIONS, count, dtype=torch.float64, generator=generator("few units"))
        found = [mean(row) for row in x]
        assert covered(found, 0.0) == pytest.approx(0.95, abs=BINOMIAL_2000)
        assert covered([replace(e, freedom=math.inf) for e in found], 0.0) == pytest.approx(held, abs=0.035)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("seeds", "n", "spread"), [(3, 4, 0.0), (3, 4, 0.5), (3, 3, 2.0), (5, 4, 0.3), (2, 8, 0.2)])
def test_nested_seeds_and_few_units_cover(seeds: int, n: int, spread: float, shared: bool) -> None:
    """K seeds, each a mean of n units: common to the seeds (minibatches) or each seed's own (timings)."""
    rng = generator("nested", seeds, n)
    effect = spread * torch.randn(REPLICATIONS, seeds, 1, dtype=torch.float64, generator=rng)
    units = torch.randn(REPLICATIONS, 1 if shared else seeds, n, dtype=torch.float64, generator=rng)
    found = [combine([mean(row) for row in study]) for study in effect + units.expand(-1, seeds, -1)]
    assert covered(found, 0.0) >= 0.95 - BINOMIAL_2000
    if shared and spread < 1:
        assert covered([replace(e, freedom=math.inf) for e in found], 0.0) < 0.92


def test_a_sum_of_two_means_of_few_units_covers() -> None:
    """Welch's problem: unequal spreads, three units against six."""
    rng = generator("welch")
    a = 2 * torch.randn(REPLICATIONS, 3, dtype=torch.float64, generator=rng)
    b = torch.randn(REPLICATIONS, 6, dtype=torch.float64, generator=rng)
    found = [added(mean(x), (-1.5, mean(y))) for x, y in zip(a, b, strict=True)]
    assert covered(found, 0.0) == pytest.approx(0.95, abs=BINOMIAL_2000 + 0.01)
    assert covered([replace(e, freedom=math.inf) for e in found], 0.0) < 0.9


def test_degrees_of_freedom_by_hand() -> None:
    assert satterthwaite([(2.0, 3.0), (1.0, math.inf)]) == pytest.approx(9 / (4 / 3))
    assert satterthwaite([(2.0, math.inf)]) == satterthwaite([(0.0, 3.0)]) == satterthwaite([]) == math.inf
    assert within([(1.0, 4.0), (2.0, 9.0)]) == pytest.approx((2.5, (5 / (1 / 2 + 4 / 3)) ** 2))
    assert within([(math.inf, 3.0), (1.0, 3.0)]) == (math.inf, math.inf)


def test_the_probes_part_is_averaged_as_the_samples_is() -> None:
    parts = [Estimate(1.0, 1.0, 9, 8, probe_stderr=x) for x in (0.3, 0.4)]
    assert combine(parts).probe_stderr == pytest.approx(math.sqrt(0.125))
    assert combine([parts[0], Estimate(1.0, 1.0, 9)]).probe_stderr is None


# ---- resampling ----

STUDIES = 250
BINOMIAL = 3 * math.sqrt(0.95 * 0.05 / STUDIES)  # three standard errors of a coverage of 95 % over so many studies


def studies(seeds: int, n: int, spread: float, noise: float, shared: bool = True) -> list[np.ndarray]:
    """Values `(seeds, n)` of true mean 0: an effect a seed, one a sample, and one of both together."""
    rng = np.random.default_rng(seeds)
    samples = [rng.standard_normal((1 if shared else seeds, n)) for _ in range(STUDIES)]
    return [
        spread * rng.standard_normal((seeds, 1)) + sample + noise * rng.standard_normal((seeds, n))
        for sample in samples
    ]


@pytest.mark.parametrize(
    ("seeds", "n", "spread", "noise"), [(3, 100, 0.5, 0.5), (3, 100, 0.02, 0.2), (5, 100, 0.1, 1.0)]
)
def test_bootstrap_covers_for_few_seeds_and_many_samples(seeds: int, n: int, spread: float, noise: float) -> None:
    """Between the seeds ruling (2 degrees of freedom) and the samples ruling; it may cover more, never less."""
    found = [bootstrap(x, seed=place, draws=100) for place, x in enumerate(studies(seeds, n, spread, noise))]
    assert 0.95 - BINOMIAL <= covered(found, 0.0) <= 0.95 + BINOMIAL + 0.02


def test_percentiles_of_three_resampled_seeds_do_not_cover() -> None:
    """The twin that everyone writes first: the middle 95 % of resampled means."""
    rng, held = np.random.default_rng(0), 0
    for x in studies(3, 50, 1.0, 0.1):
        again = [np.take(x, rng.integers(3, size=3), axis=0).mean() for _ in range(100)]
        held += np.quantile(again, 0.025) <= 0 <= np.quantile(again, 0.975)
    assert held / STUDIES < 0.85


def test_samples_of_each_seeds_own_are_held_by_the_spread_between_seeds() -> None:
    studied = studies(4, 25, 0.1, 0.2, shared=False)
    found = [bootstrap(x, seed=place, shared=False, draws=100) for place, x in enumerate(studied)]
    assert abs(covered(found, 0.0) - 0.95) <= BINOMIAL + 0.01
    assert {e.freedom for e in found} == {3.0}


def test_bootstrap_is_the_closed_form_for_a_mean() -> None:
    """stderr² = Σ(row mean)²/(K(K − 1)) + Σ(column mean)²/(n(n − 1)), means taken off; draws add 1/√(2 draws)."""
    x = np.random.default_rng(3).standard_normal((6, 40)) + np.arange(6)[:, None]
    exact = [x.mean(axis).var(ddof=1) / count for axis, count in ((1, 6), (0, 40))]
    found = bootstrap(x, seed=0, draws=4000)
    assert found.value == pytest.approx(x.mean())
    assert found.stderr**2 == pytest.approx(sum(exact), rel=5 / math.sqrt(2 * 4000))
    assert found.freedom == pytest.approx(sum(exact) ** 2 / (exact[0] ** 2 / 5 + exact[1] ** 2 / 39), rel=0.2)
    assert bootstrap(x[0], seed=0, draws=4000).stderr == pytest.approx(x[0].std(ddof=1) / math.sqrt(40), rel=0.06)


def test_bootstrap_of_a_ratio_agrees_with_the_delta_method() -> None:
    rng = np.random.default_rng(5)
    bottom = rng.exponential(size=400)
    both = np.stack([0.5 * bottom + rng.exponential(size=400), bottom])[:, None]  # (2, 1 seed, n)
    delta = ratio(torch.from_numpy(both[0, 0]), torch.from_numpy(both[1, 0]))
    assert bootstrap(both, lambda v: v[0].mean() / v[1].mean(), seed=0).stderr == math.inf  # one seed says nothing
    again = bootstrap(np.repeat(both, 2, axis=1), lambda v: v[0].mean() / v[1].mean(), seed=0, draws=2000)
    assert (again.value, again.stderr) == pytest.approx((delta.value, delta.stderr), rel=0.08)


def test_pairing_takes_out_the_noise_that_two_flows_share() -> None:
    rng = np.random.default_rng(11)
    common, seeds = rng.standard_normal((1, 500)), 0.02 * rng.standard_normal((5, 1))
    a = common + seeds + 0.05 * rng.standard_normal((5, 500))
    b = common + seeds + 0.05 * rng.standard_normal((5, 500)) + 0.03
    difference = paired(a, b, seed=0)
    low, high = interval(difference)
    assert 0 < low < 0.03 < high
    apart = [combine([mean(torch.from_numpy(row)) for row in side]) for side in (a, b)]
    assert math.hypot(*(side.stderr for side in apart)) > 10 * difference.stderr
    with pytest.raises(ValueError, match="equal seeds and samples"):
        paired(a, b[:, :100], seed=0)


def test_resampling_is_seeded_and_knows_when_it_knows_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((3, 30))
    assert bootstrap(x, seed=1) == bootstrap(x, seed=1) != bootstrap(x, seed=2)
    for few in (x[:1], x[:, :1], x[:1, :1], x[0, :1]):
        assert interval(bootstrap(few, seed=0)) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no values"):
        bootstrap(np.empty((3, 0)), seed=0)


def test_redrawn_means_have_the_moments_of_combine() -> None:
    """Variance of Student's t: ν/(ν − 2) times the seeds' part; seeds move all cells together, samples each alone."""
    values = np.random.default_rng(2).standard_normal((9, 1)) * [1.0, 2.0, 0.0] + [0.0, 5.0, 1.0]
    errors = np.full((9, 3), 0.3)
    drawn = redrawn(values, errors, seed=0, draws=40_000)
    assert drawn.mean(0) == pytest.approx(values.mean(0), abs=0.02)
    between = values.var(axis=0, ddof=1) / 9
    assert drawn.var(0) == pytest.approx(between * 8 / 6 + 0.09, rel=0.06)
    assert np.cov(drawn.T)[0, 1] == pytest.approx(math.sqrt(between[0] * between[1]) * 8 / 6, rel=0.1)
    alone = redrawn(values[:1], errors[:1], seed=0, draws=40_000)
    assert alone.std(0) == pytest.approx([0.3] * 3, rel=0.02)
    two = redrawn(values[:2, :1], np.zeros((2, 1)), seed=0, draws=40_000)  # one degree: Cauchy's law, of scale |d| / 2
    assert np.subtract(*np.quantile(two, [0.75, 0.25])) == pytest.approx(np.ptp(values[:2, 0]), rel=0.05)
    few = redrawn(values[:1], errors[:1], [[math.inf, 6.0, 6.0]], seed=0, draws=40_000)
    assert few.std(0) == pytest.approx([0.3, *[0.3 * math.sqrt(6 / 4)] * 2], rel=0.04)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, math.nan])


def test_the_level_that_holm_leaves_by_hand() -> None:
    assert holm_level([], 0.05) == 0.05
    assert holm_level([0.9, 0.9], 0.05) == pytest.approx(0.05 / 3)
    assert holm_level([0.9, 0.001], 0.05) == pytest.approx(0.05 / 2)
    assert holm_level([0.02, 0.001], 0.05) == holm_level([0.025], 0.05) == 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.4))
def test_holm_rejects_up_to_that_level(p: list[float], alpha: float) -> None:
    for place, (own, adjusted) in enumerate(zip(p, holm(p), strict=True)):
        level = holm_level([*p[:place], *p[place + 1 :]], alpha)
        if not math.isclose(adjusted, alpha, rel_tol=1e-9):
            assert (own <= level) == (adjusted <= alpha)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_order_and_never_helps(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(raw <= after <= 1 for raw, after in zip(p, adjusted, strict=True))
    pairs = sorted(zip(p, adjusted, strict=True))
    assert [after for _, after in pairs] == sorted(adjusted)
