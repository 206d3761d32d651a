"""The energy coefficient against its closed form, and a permutation test of the right level and of useful power."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.errors import Skip
from fmbench.metrics.base import TwoSampleMetric
from fmbench.metrics.distances import discrepancy, minus_distance
from fmbench.metrics.marginals import EnergyCoefficient, MarginalGap, MarginalPValue, energies
from fmbench.randomness import generator
from fmbench.statistics import Estimate


def normal(n: int, *stream: str | int, shift: float = 0.0, std: float = 1.0, dim: int = 1) -> Tensor:
    z = std * torch.randn(n, dim, generator=generator("test marginals", *stream), dtype=torch.float64)
    return z + torch.tensor([shift, *[0.0] * (dim - 1)], dtype=torch.float64)


def coefficient(shift: float, std: float) -> float:
    """H of N(0, 1) and N(shift, std²) on the line, by the folded normal law."""
    root = math.sqrt(1 + std**2)
    across = root * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * root**2))
    across += shift * math.erf(shift / (root * math.sqrt(2)))
    return 1 - (1 + std) / (across * math.sqrt(math.pi))


class WithTheDiagonal(EnergyCoefficient):
    """The twin whose inner means count each point with itself."""

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        means = [torch.cdist(a, b).mean().item() for a, b in ((x, x), (y, y), (x, y))]
        return Estimate(1 - (means[0] + means[1]) / (2 * means[2]), 1e-3, len(x))


class NotHalved(EnergyCoefficient):
    """The twin over E‖x − y‖."""

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        return Estimate(discrepancy(minus_distance, x, y).value / torch.cdist(x, y).mean().item(), 1e-3, len(x))


def known(metric: TwoSampleMetric) -> None:
    for shift, std in ((0.0, 1.0), (0.5, 1.0), (0.3, 2.0), (3.0, 1.0)):
        values = [metric.distance(normal(200, "x", k), normal(200, "y", k, shift=shift, std=std)) for k in range(30)]
        mean = sum(value.value for value in values) / 30
        spread = math.sqrt(sum((value.value - mean) ** 2 for value in values) / 29)
        assert mean == pytest.approx(coefficient(shift, std), abs=4 * spread / math.sqrt(30))
        stderr = sum(value.stderr for value in values) / 30
        assert 0.7 < stderr / spread < 2.5, "careful where the laws are equal"


def test_the_closed_form() -> None:
    known(EnergyCoefficient())
    assert coefficient(0.2, 1.0) == pytest.approx(0.2**2 / 4, rel=0.02), "a small shift has δ²/4"


@pytest.mark.parametrize("twin", [WithTheDiagonal(), NotHalved()], ids=lambda twin: type(twin).__name__)
def test_broken_twins_are_rejected(twin: TwoSampleMetric) -> None:
    with pytest.raises(AssertionError):
        known(twin)


def test_it_has_no_units_and_two_equal_sides() -> None:
    metric, x, y = EnergyCoefficient(), normal(100, "a", dim=3), normal(80, "b", dim=3, shift=1.0)
    plain = metric.distance(x, y)
    assert metric.distance(5 * x - 2, 5 * y - 2).value == pytest.approx(plain.value, rel=1e-12)
    back = metric.distance(y, x)
    assert (back.value, back.stderr) == pytest.approx((plain.value, plain.stderr), rel=1e-12)
    one = torch.zeros(10, 2, dtype=torch.float64)
    assert metric.distance(one, one) == Estimate(0.0, math.inf, 10)


def test_the_gap_is_that_of_the_reference_solves_end() -> None:
    seen = GaussianFlow((1.0, -0.5), (0.5, 2.0)).evidence(300)
    assert MarginalGap().measure(seen) == EnergyCoefficient().measure(seen)
    assert MarginalGap().scope == MarginalPValue().scope == "flow"


# -- the permutation test --


def test_energies_by_hand() -> None:
    """Every way to cut six points into two and four, against plain means."""
    points = normal(6, "hand", dim=2)
    distances = torch.cdist(points, points)
    for i, j in ((0, 1), (2, 5)):
        first = torch.zeros(6, dtype=torch.float64)
        first[[i, j]] = 1
        rest = [k for k in range(6) if k not in (i, j)]
        across = distances[[i, j]][:, rest].mean()
        outside = distances[rest][:, rest].sum() / 12
        expected = 2 * across - distances[i, j] - outside
        assert energies(distances, first[None]).item() == pytest.approx(expected.item())
        value = discrepancy(minus_distance, points[[i, j]], points[rest]).value
        assert value == pytest.approx(expected.item())


def rates(shift: float, n: int, runs: int, alpha: float = 0.1) -> float:
    """How often p ≤ α, in the plane, the other side twice as large."""
    test = MarginalPValue(permutations=99)
    found = [test.distance(normal(n, "p", k, dim=2), normal(2 * n, "q", k, dim=2, shift=shift)) for k in range(runs)]
    return sum(estimate.value <= alpha for estimate in found) / runs


def test_its_level_is_alpha_and_its_power_grows() -> None:
    """Exact for any n: p takes the values 1/100, …, 1 with one chance each; three binomial standard errors."""
    runs = 200
    assert rates(0.0, 15, runs) == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / runs))
    powers = [rates(0.6, n, 40) for n in (10, 30, 100)]
    assert powers == sorted(powers)
    assert powers[0] < 0.7
    assert powers[-1] > 0.95


def test_p_is_never_zero_nor_is_its_error() -> None:
    """The twin without the sample itself among the permutations is 0 here, and with probability 1/B too often."""
    found = MarginalPValue(permutations=99).distance(normal(50, "x"), normal(50, "y", shift=20.0))
    assert found.value == 0.01
    assert found.stderr == pytest.approx(math.sqrt(3 / 104 * 101 / 104 / 104))
    same = normal(50, "x")
    assert MarginalPValue(permutations=99).distance(same, same.flip(0)).value > 0.9
    two = MarginalPValue(permutations=99).distance(normal(2, "x"), normal(2, "x"))
    assert two.value == 1
    assert two.stderr > 0


def test_permutations_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of 99 at once: all of them are counted, the last and smaller block too."""
    monkeypatch.setattr("fmbench.metrics.marginals.AT_ONCE", 10 * 100)
    same = normal(50, "x")
    assert MarginalPValue(permutations=99).distance(same, same.flip(0)).value > 0.9


def test_few_samples_reach_no_small_p() -> None:
    """Two and two points are cut in three ways, however far apart: one cut in three is as extreme, ties counted."""
    runs = 40
    found = [MarginalPValue().distance(normal(2, "x", k), normal(2, "y", k, shift=50.0)).value for k in range(runs)]
    assert found == pytest.approx([1 / 3] * runs, abs=4 * math.sqrt(2 / 9 / 1000))


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (normal(1, "x"), normal(50, "y"), "two samples a side, here are 1 and 50"),
        (normal(50, "x"), normal(1, "y"), "two samples a side, here are 50 and 1"),
        (torch.full((50, 1), math.nan).double(), normal(50, "y"), "not finite"),
        (normal(50, "x"), torch.full((50, 1), math.inf).double(), "not finite"),
    ],
)
def test_no_p_without_two_finite_samples_a_side(x: Tensor, y: Tensor, reason: str) -> None:
    with pytest.raises(Skip, match=reason):
        MarginalPValue(permutations=9).distance(x, y)
