"""The Fréchet distance's algebra, and what FDPixels feeds it."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fmbench.data import DATA
from fmbench.metrics.frechet import FDPixels, frechet_distance, moments, quantise
from fmbench.randomness import generator


def covariance(dim: int, rank: int, *stream: int) -> Tensor:
    a = torch.randn(dim, rank, generator=generator("covariance", *stream), dtype=torch.float64)
    return a @ a.T


@given(dim=st.integers(1, 6), rank=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_distance_is_w2_squared_of_gaussians(dim: int, rank: int, seed: int) -> None:
    """Under the map x → A x + b with A symmetric positive, which is optimal: W2² = tr((A − I) C (A − I)) + ‖…‖²."""
    cov, a = covariance(dim, rank, seed, 1), covariance(dim, dim, seed, 2) + 0.1 * torch.eye(dim)
    mean, shift = torch.zeros(dim).double(), torch.ones(dim).double()
    step = a - torch.eye(dim)
    value = frechet_distance(mean, cov, mean + shift, a @ cov @ a)
    assert value == pytest.approx((step @ cov @ step).trace().item() + dim, rel=1e-6)
    assert value == pytest.approx(frechet_distance(mean + shift, a @ cov @ a, mean, cov), rel=1e-6)


@given(dim=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_commuting_covariances_and_a_twin_without_the_cross_term(dim: int, seed: int) -> None:
    basis = torch.linalg.qr(covariance(dim, dim, seed))[0]
    one, two = (torch.rand(2, dim, generator=generator("eigen", seed), dtype=torch.float64) + 0.1).unbind()
    zero = torch.zeros(dim).double()
    value = frechet_distance(zero, basis * one @ basis.T, zero, basis * two @ basis.T)
    right = (one.sqrt() - two.sqrt()).square().sum().item()
    assert value == pytest.approx(right, abs=1e-10)
    assert (one + two).sum().item() != pytest.approx(right, abs=1e-10)


def test_degenerate_covariances() -> None:
    zero = torch.zeros(2).double()
    flat = torch.diag(torch.tensor([4.0, 0.0])).double()
    upright = torch.diag(torch.tensor([0.0, 9.0])).double()
    assert frechet_distance(zero, flat, zero, upright) == pytest.approx(13)
    assert frechet_distance(zero, flat, zero, flat) == pytest.approx(0, abs=1e-12)
    x = torch.randn(50, 2, generator=generator("flat")).double() * torch.tensor([1.0, 0.0])
    estimate = FDPixels().distance(x, x + torch.tensor([1.0, 0.0]))
    assert estimate.value == pytest.approx(1)
    assert 0 < estimate.stderr < 1


def test_moments_are_unbiased() -> None:
    mean, cov = moments(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]))
    assert mean.tolist() == [2, 2]
    assert cov.tolist() == [[4, 3], [3, 3]]
    assert moments(torch.tensor([[0.0], [2.0]]))[1].tolist() == [[2]]


def test_quantise_rounds_half_up_and_clamps() -> None:
    assert quantise(torch.tensor([-3.0, -1, -0.5, -0.1, 0.1, 0.5, 0.9, 7]), 3).tolist() == [-1, -1, 0, 0, 0, 1, 1, 1]
    grid = torch.arange(17) / 8 - 1
    assert torch.equal(quantise(grid, 17), grid)
    assert torch.equal(quantise(grid + 0.06, 17), grid)


def test_generated_digits_are_quantised_and_all_training_digits_are_the_reference() -> None:
    digits = DATA.build("digits")
    train = digits.take("train", None)
    noisy = train + 0.06 * (2 * torch.rand(train.shape, generator=generator("noise")) - 1)
    evidence = GaussianFlow((0.0,), (1.0,)).evidence(4, data=digits, generated=noisy)
    assert FDPixels().measure(evidence).value == pytest.approx(0, abs=1e-9)
    assert FDPixels(n=100).real(digits, "train", 100, 0) is train
    unquantised = FDPixels().distance(noisy.flatten(1).double(), train.flatten(1).double())
    assert unquantised.value > 1e-3
    floor = FDPixels().floor(digits, 500, 0)
    shifted = FDPixels().measure(
        GaussianFlow((0.0,), (1.0,)).evidence(4, data=digits, generated=digits.take("test", None).flip(3))
    )
    assert floor.n == 500
    assert shifted.value - floor.value > 5 * (shifted.stderr + floor.stderr)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_error_of_skewed_samples_is_their_spread(swapped: bool) -> None:
    """Exp(1) − 1 against N(½, 4), the skewed side few: mean and variance go wrong together, and so do their influences."""
    replications, found = 300, []
    for k in range(replications):
        rng = generator("skewed", k)
        x = torch.empty(200, 1, dtype=torch.float64).exponential_(generator=rng) - 1
        y = 0.5 + 2 * torch.randn(800, 1, dtype=torch.float64, generator=rng)
        found.append(FDPixels().distance(*((y, x) if swapped else (x, y))))
    values, errors = (torch.tensor([getattr(e, part) for e in found]) for part in ("value", "stderr"))
    assert (errors.mean() / values.std()).item() == pytest.approx(1, abs=4 / math.sqrt(2 * replications))
