"""The numbers that the claims about paths print, and where these claims turn, against the closed form."""

from __future__ import annotations

import math

import pytest
import torch

from fmbench.claims.path import StraighterThanVE, StraighterThanVP
from fmbench.flow import PATHS
from fmbench.flow.gaussian import GaussianFlow

each_dimension = pytest.mark.parametrize("dims", [1, 2, 5])


def gaussian(path: str, dims: int, norm: float) -> GaussianFlow:
    """The flow to N(m, I) with ‖m‖ = norm."""
    mean = torch.full((dims,), norm / math.sqrt(dims), dtype=torch.float64)
    return GaussianFlow(PATHS.build(path), mean, torch.ones(dims, dtype=torch.float64))


def straightness(path: str, dims: int, norm: float, *, normalized: bool = False) -> float:
    flow = gaussian(path, dims, norm)
    return flow.straightness() / (flow.transport_cost() if normalized else 1)


def printed(claim: type, value: float) -> bool:
    return f"{value:.3g}" in (claim.__doc__ or "")


@each_dimension
def test_linear_against_variance_preserving(dims: int) -> None:
    linear = straightness("rectified", dims, 3.0)
    assert linear == pytest.approx(straightness("rectified", dims, 0.1)), "wherever the mean is"
    assert linear == pytest.approx((2 - math.pi / 2) * dims)
    assert printed(StraighterThanVP, linear / dims)
    for path in ("vp-linear", "vp-cosine"):
        rate = straightness(path, dims, 1.0)
        assert straightness(path, dims, 3.0) == pytest.approx(9 * rate)
        turn = math.sqrt(linear / dims / rate)  # of ‖m‖/√D
        assert printed(StraighterThanVP, rate)
        assert printed(StraighterThanVP, turn), turn
        nearer, farther = (straightness(path, dims, turn * math.sqrt(dims) * by) for by in (0.99, 1.01))
        assert nearer < linear < farther


@each_dimension
def test_linear_against_variance_exploding(dims: int) -> None:
    exploding = straightness("ve", dims, 1.0, normalized=True)
    assert straightness("ve", dims, 3.0, normalized=True) == pytest.approx(exploding)
    assert printed(StraighterThanVE, exploding)
    rate = straightness("rectified", dims, 1.0, normalized=True) / dims
    turn = math.sqrt(rate / exploding)
    assert printed(StraighterThanVE, rate)
    assert printed(StraighterThanVE, turn), turn
    nearer, farther = (
        straightness("rectified", dims, turn * math.sqrt(dims) * by, normalized=True) for by in (0.99, 1.01)
    )
    assert farther < exploding < nearer
