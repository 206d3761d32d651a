"""Two-sample distances against closed forms, POT, their symmetries, their noise, and broken twins."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import ot
import pytest
import torch
from gaussian_flow import GaussianFlow
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fmbench.data.toys import EightGaussians, Normal
from fmbench.errors import Skip
from fmbench.metrics import distances, transport
from fmbench.metrics.base import TwoSampleMetric
from fmbench.metrics.distances import MMD, W2, EnergyDistance, SlicedW2, transport_1d
from fmbench.metrics.frechet import FDPixels
from fmbench.metrics.marginals import EnergyCoefficient, MarginalPValue
from fmbench.randomness import generator
from fmbench.statistics import Estimate, interval

KERNEL = 1.3
EVERY = [W2(), SlicedW2(projections=200), MMD(bandwidth=KERNEL), EnergyDistance(), FDPixels()]
names = partial(pytest.mark.parametrize, "metric", EVERY, ids=[metric.name for metric in EVERY])


def gaussian(n: int, mean: list[float], std: float, *stream: str | int) -> Tensor:
    z = torch.randn(n, len(mean), generator=generator("test", *stream), dtype=torch.float64)
    return torch.tensor(mean, dtype=torch.float64) + std * z


# N(0, I) against N(shift e1, std² I) in D dimensions


def w2(dim: int, shift: float, std: float) -> float:
    return math.sqrt(shift**2 + dim * (std - 1) ** 2)


def sliced_w2(dim: int, shift: float, std: float) -> float:
    return math.sqrt(shift**2 / dim + (std - 1) ** 2)


def mmd(dim: int, shift: float, std: float) -> float:
    def kernel(shift: float, variance: float) -> float:  # E k for x − y ~ N(shift, variance I)
        total = KERNEL**2 + variance
        return (KERNEL**2 / total) ** (dim / 2) * math.exp(-(shift**2) / (2 * total))

    return kernel(0, 2) + kernel(0, 2 * std**2) - 2 * kernel(shift, 1 + std**2)


def energy_distance(dim: int, shift: float, std: float) -> float:
    def distance(shift: float, variance: float) -> float:  # E‖N(shift, variance I)‖: chi, or folded normal
        if dim > 1:
            assert shift == 0
            return math.sqrt(2 * variance) * math.gamma((dim + 1) / 2) / math.gamma(dim / 2)
        return math.sqrt(2 * variance / math.pi) * math.exp(-(shift**2) / (2 * variance)) + shift * math.erf(
            shift / math.sqrt(2 * variance)
        )

    return 2 * distance(shift, 1 + std**2) - distance(0, 2) - distance(0, 2 * std**2)


def fd_pixels(dim: int, shift: float, std: float) -> float:
    return w2(dim, shift, std) ** 2


TRUTH: dict[str, Callable[[int, float, float], float]] = {
    f.__name__: f for f in (w2, sliced_w2, mmd, energy_distance, fd_pixels)
}
CASES = [(1, 1.5, 1.0), (1, 0.7, 2.0), (3, 0.0, 2.0)]


def check(metric: TwoSampleMetric, dim: int, shift: float, std: float) -> None:
    n = 1500
    x, y = gaussian(n, [0.0] * dim, 1, "x", dim), gaussian(n, [shift] + [0.0] * (dim - 1), std, "y", dim)
    estimate = metric.distance(x, y)
    bias = 0.12 if metric.name == "w2" and dim == 3 else 0.0  # of W2 itself, order n^(−2/3): seen 0.04
    assert estimate.n == n
    assert 0 < estimate.stderr < 0.1 * estimate.value
    assert abs(estimate.value - TRUTH[metric.name](dim, shift, std)) < 4 * estimate.stderr + bias


def check_all(metric: TwoSampleMetric) -> None:
    """In one case alone a wrong root could hide: 1 is its own square."""
    for case in CASES:
        check(metric, *case)


@pytest.mark.parametrize("case", CASES, ids=str)
@names()
def test_closed_form(metric: TwoSampleMetric, case: tuple[int, float, float]) -> None:
    check(metric, *case)


class Squared(W2):
    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        return dataclasses.replace(super().distance(x, y), value=super().distance(x, y).value ** 2)


class SlicedSquared(SlicedW2):
    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        return dataclasses.replace(super().distance(x, y), value=super().distance(x, y).value ** 2)


class Rooted(EnergyDistance):
    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        return dataclasses.replace(super().distance(x, y), value=super().distance(x, y).value ** 0.5)


class OneSided(FDPixels):
    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        return super().distance(x - x.mean(0), y - y.mean(0))


@pytest.mark.parametrize("twin", [Squared(), SlicedSquared(), Rooted(), OneSided()], ids=lambda t: type(t).__name__)
def test_broken_twins_are_rejected(twin: TwoSampleMetric) -> None:
    with pytest.raises(AssertionError):
        check_all(twin)


@names()
def test_symmetric_and_zero_for_the_same_law(metric: TwoSampleMetric) -> None:
    x, y = gaussian(300, [0.0, 0.0], 1, "x"), gaussian(200, [0.5, 0.0], 1.2, "y")
    forth, back = metric.distance(x, y), metric.distance(y, x)
    assert forth.value == pytest.approx(back.value, rel=1e-9)
    assert forth.stderr == pytest.approx(back.stderr, rel=1e-6)
    if metric.name in ("w2", "sliced_w2", "fd_pixels"):
        assert metric.distance(x, x.flip(0)).value == pytest.approx(0, abs=1e-6)
    order = torch.randperm(300, generator=generator("order"))
    assert metric.distance(x[order], y.flip(0)).value == pytest.approx(forth.value, rel=1e-9)


@names()
def test_grows_with_the_shift_and_the_floor_lies_below(metric: TwoSampleMetric) -> None:
    x = gaussian(600, [0.0, 0.0], 1, "x")
    values = [metric.distance(x, gaussian(600, [shift, 0.0], 1, "y")).value for shift in (0.4, 0.8, 1.6, 3.2)]
    assert values == sorted(values)
    floor = metric.floor(Normal(), 600, seed=0)
    assert floor is not None
    assert floor.n == 600
    assert floor.value < 0.6 * values[0]


@given(scale=st.floats(0.2, 3), shift=st.tuples(st.floats(-3, 3), st.floats(-3, 3)), n=st.integers(2, 40))
@settings(max_examples=30, deadline=None)
def test_w2_of_a_stretched_sample_is_exact(scale: float, shift: tuple[float, float], n: int) -> None:
    """y = scale x + shift is the gradient of a convex function: the pairing is optimal, sample by sample."""
    x = gaussian(n, [0.0, 0.0], 1, "stretch", n)
    step = (scale - 1) * x + torch.tensor(shift, dtype=torch.float64)
    y = (x + step).flip(0)
    assert W2().distance(x, y).value == pytest.approx(step.square().sum(1).mean().sqrt().item(), abs=1e-6)
    sliced = SlicedW2(projections=50)
    along = (step @ sliced.directions(2)).square().mean().sqrt().item()
    assert sliced.distance(x, y).value == pytest.approx(along, abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 25), (7, 30), (1, 5)])
def test_sliced_w2_is_pots(n: int, m: int) -> None:
    x, y = gaussian(n, [0.0] * 3, 1, "x"), gaussian(m, [1.0, 0.0, 0.0], 2, "y")
    metric = SlicedW2(projections=64)
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=metric.directions(3).numpy())
    assert metric.distance(x, y).value == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 20), (12, 31)])
def test_potentials_on_the_line_are_optimal(n: int, m: int) -> None:
    """Feasible everywhere, and their means add up to the cost: that is optimality (Kantorovich duality)."""
    x, y = gaussian(n, [0.0], 1, "x"), gaussian(m, [0.3], 2, "y")
    cost, u, v = transport_1d(x, y)
    slack = (x - y.T).square() - u - v.T
    constant = cost - u.mean() - v.mean()
    assert (slack - constant).min().item() == pytest.approx(0, abs=1e-9)


def test_discrepancies_are_the_plain_double_sums() -> None:
    x, y = gaussian(9, [0.0, 0.0], 1, "x"), gaussian(6, [1.0, 0.0], 2, "y")

    def unbiased(k: Callable[[Tensor], Tensor]) -> float:
        xx, yy, xy = k(torch.cdist(x, x)), k(torch.cdist(y, y)), k(torch.cdist(x, y))
        return ((xx.sum() - xx.trace()) / 72 + (yy.sum() - yy.trace()) / 30 - 2 * xy.mean()).item()

    right = unbiased(lambda d: torch.exp(-(d**2) / (2 * KERNEL**2)))
    assert MMD(bandwidth=KERNEL).distance(x, y).value == pytest.approx(right, abs=1e-12)
    assert EnergyDistance().distance(x, y).value == pytest.approx(unbiased(torch.neg), abs=1e-9)
    median = torch.pdist(y).sort().values[7].item()
    for seen in (x, 5 * x):  # the kernel is the real side's
        found, given = MMD().distance(seen, y), MMD(bandwidth=median).distance(seen, y)
        assert found.value == given.value
    assert found.protocol == f"bandwidth {median:.6g}, the median distance among the first 6 real samples"
    assert given.protocol == f"bandwidth {median:.6g}, as given"


def test_mmds_bandwidth_is_that_of_the_first_thousand_real_samples() -> None:
    y = torch.cat([gaussian(1000, [0.0], 1, "y"), gaussian(200, [50.0], 1, "far")])
    found = MMD().distance(gaussian(10, [0.0], 1, "x"), y)
    median = distances.median_distance(transport.content(y[:1000]))[0]
    assert found.protocol == f"bandwidth {median:.6g}, the median distance among the first 1000 real samples"


def test_mmd_is_unbiased_and_its_twin_with_the_diagonal_is_not() -> None:
    n, replications = 20, 300
    pairs = [(gaussian(n, [0.0], 1, "x", k), gaussian(n, [0.0], 1, "y", k)) for k in range(replications)]
    values = np.array([MMD(bandwidth=KERNEL).distance(x, y).value for x, y in pairs])
    kernels = [torch.exp(-(torch.cdist(z, z) ** 2) / (2 * KERNEL**2)).mean().item() for pair in pairs for z in pair]
    diagonal = np.reshape([(1 - k) / (n - 1) for k in kernels], (replications, 2)).sum(1)  # what k(x, x) = 1 would add
    error = values.std() / math.sqrt(replications)
    assert abs(values.mean()) < 4 * error
    assert (values + diagonal).mean() > 8 * error


@names()
def test_standard_errors_cover(metric: TwoSampleMetric) -> None:
    """Errors against the real spread over replications, and intervals against the mean (with its bias)."""
    replications, n, m = 300, 100, 150
    found = [
        metric.distance(gaussian(n, [0.0, 0.0], 1, "x", k), gaussian(m, [1.0, 0.0], 1.5, "y", k))
        for k in range(replications)
    ]
    values = np.array([e.value for e in found])
    errors = np.array([e.stderr for e in found])
    centre = mmd(2, 1, 1.5) if metric.name == "mmd" else values.mean()
    assert errors.mean() == pytest.approx(values.std(), rel=4 / math.sqrt(2 * replications))
    covered = (abs(values - centre) < 1.96 * errors).mean()
    assert covered == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / replications))


def coverage(metric: TwoSampleMetric, n: int, replications: int = 400) -> float:
    """How often the 95 % interval of two samples of n holds the mean over replications."""
    found = [
        metric.distance(gaussian(n, [0.0, 0.0], 1, "x", k), gaussian(n, [1.0, 0.0], 1.5, "y", k))
        for k in range(replications)
    ]
    centre = sum(e.value for e in found) / replications
    inside = [low <= centre <= high for low, high in map(interval, found)]
    return sum(inside) / replications


@pytest.mark.parametrize("std", [1e-3, 10.0])
def test_mmds_error_knows_that_its_bandwidth_is_measured(std: float) -> None:
    """Far from the data what other real samples change their median mostly undoes; the twin with h as given is too wide."""
    replications, n = 200, 100
    drawn = [(gaussian(n, [0.0] * 4, std, "x", k), gaussian(n, [0.0] * 4, 1, "y", k)) for k in range(replications)]
    found = [MMD().distance(x, y) for x, y in drawn]
    spread, error = np.std([e.value for e in found]), 1 / math.sqrt(2 * replications)
    ratio = np.mean([e.stderr for e in found]) / spread
    assert 1 - 3 * error < ratio < 1.5, "never below, and √2 above where it is degenerate"
    centre = np.mean([e.value for e in found])
    held = sum(low <= centre <= high for low, high in map(interval, found)) / replications
    assert held > 0.95 - 3 * math.sqrt(0.95 * 0.05 / replications)
    bandwidths = [distances.median_distance(transport.content(y))[0] for _, y in drawn]
    given = [MMD(bandwidth=h).distance(x, y).stderr for h, (x, y) in zip(bandwidths, drawn, strict=True)]
    assert np.mean(given) > 2 * spread


@pytest.mark.parametrize("std", [1e-3, 10.0])
def test_mmds_error_where_a_quarter_of_the_real_samples_makes_its_bandwidth(
    std: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the weight in a mean over all: the twin without it states half of the spread."""
    monkeypatch.setattr(distances, "BANDWIDTH_SAMPLES", 25)
    replications, n = 200, 100
    found = [
        MMD().distance(gaussian(n, [0.0] * 4, std, "x", k), gaussian(n, [0.0] * 4, 1, "y", k))
        for k in range(replications)
    ]
    ratio = np.mean([e.stderr for e in found]) / np.std([e.value for e in found])
    assert ratio == pytest.approx(1, abs=4 / math.sqrt(2 * replications))


def test_how_much_each_sample_moves_the_median_distance() -> None:
    """Against what leaving it out does: −1/(n − 1) of its influence. On many samples, for a median has no slope on few."""
    y = gaussian(800, [0.0, 0.0], 1, "moved")
    median, moved = distances.median_distance(transport.content(y))
    assert moved.mean().item() == pytest.approx(0, abs=1e-3)
    for far in (moved.argmax(), moved.argmin()):
        without = distances.median_distance(transport.content(y[torch.arange(800) != far]))[0]
        assert 799 * (median - without) == pytest.approx(moved[far].item(), rel=0.2)


class Normally(EnergyCoefficient):
    """The twin that takes the standard error of a few samples as known."""

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        return dataclasses.replace(super().distance(x, y), freedom=math.inf)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("metric", [*EVERY, EnergyCoefficient()], ids=lambda metric: metric.name)
def test_intervals_of_few_samples_cover(metric: TwoSampleMetric, n: int) -> None:
    """To first order, so not exactly: no worse than 9 in 10, within three binomial errors of 400 replications."""
    assert coverage(metric, n) > 0.9 - 3 * math.sqrt(0.09 / 400)


def test_a_normal_interval_of_two_samples_does_not_cover() -> None:
    assert coverage(Normally(), 2) < 0.8


def test_single_precision_is_taken() -> None:
    x, y = gaussian(40, [0.0, 0.0], 1, "x"), gaussian(40, [1.0, 0.0], 1, "y")
    for metric in [*EVERY, EnergyCoefficient(), MarginalPValue(permutations=9)]:
        assert metric.distance(x.float(), y.float()).value == pytest.approx(metric.distance(x, y).value, rel=1e-4)


@pytest.mark.parametrize("size", [130, 10])  # of fewer numbers than a row has, too
@pytest.mark.parametrize("metric", [MMD(), EnergyDistance()], ids=["mmd", "energy_distance"])
def test_chunks_do_not_matter(metric: TwoSampleMetric, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(70, [0.0, 0.0], 1, "x"), gaussian(50, [1.0, 0.0], 1, "chunked")
    whole = metric.distance(x, y)
    distances._cached_within.cache_clear()
    monkeypatch.setattr(distances, "CHUNK", size)
    part = metric.distance(x, y)
    assert (part.value, part.stderr) == pytest.approx((whole.value, whole.stderr), rel=1e-12)


def test_an_unfinished_transport_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "ITERATIONS", 3)
    with (
        pytest.raises(ArithmeticError, match="stopped before the optimal plan"),
        pytest.warns(UserWarning, match="numItermax"),
    ):
        W2().distance(gaussian(60, [0.0], 1, "fresh"), gaussian(60, [1.0], 1, "fresher"))
    with pytest.raises(ArithmeticError, match="not finite"):
        W2().distance(torch.tensor([[math.nan]]), torch.tensor([[0.0]]))


def test_too_few_samples_are_skipped() -> None:
    flow = GaussianFlow((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(Skip, match="n = 50 samples asked for, 20 generated"):
        W2(n=50).measure(flow.evidence(20))
    for metric in (MMD(bandwidth=1), EnergyDistance(), FDPixels()):
        with pytest.raises(Skip, match="two samples a side"):
            metric.measure(flow.evidence(1))
    with pytest.raises(Skip, match="give the metric a bandwidth"):
        MMD().distance(torch.zeros(5, 1).double(), torch.zeros(5, 1).double())
    assert W2().distance(torch.zeros(1, 1).double(), torch.ones(1, 1).double()) == Estimate(1.0, math.inf, 1)


def test_w2_holds_a_default_n_where_its_time_explodes() -> None:
    evidence = GaussianFlow((0.0, 0.0), (1.0, 1.0)).evidence(60)
    assert W2(n=50).measure(evidence).n == 50
    assert W2().measure(evidence).n == 60
    assert W2.most == 2000
    assert W2().floor(EightGaussians(), 40, 0).n == 40
