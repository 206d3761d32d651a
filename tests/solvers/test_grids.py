"""Time grids: the published formulas, and what happens at the ends."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fmbench.errors import UserError
from fmbench.flow import PATHS
from fmbench.flow.paths import Rectified
from fmbench.solvers import GRIDS

BRIDGES = [name for name in PATHS.names() if not PATHS.get(name).affine]


def noise_levels(path: str, steps: int, **parameters: float) -> Tensor:
    chosen = PATHS.build(path)
    times = GRIDS.build({"name": "polynomial-rho", **parameters}).on(chosen, steps)
    return (-chosen.half_log_snr(times)).exp()


def karras(count: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Karras 2022, eq. 5: σ_i for i < N."""
    i = torch.arange(count, dtype=torch.float64)
    return (high ** (1 / rho) + i / (count - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def test_polynomial_rho_is_equation_five_between_the_ends() -> None:
    """The rectified path: its first step starts from pure noise, not from σ = 80; then N − 1 levels, then the data."""
    levels = noise_levels("rectified", 18)
    assert torch.allclose(levels[1:-1], karras(18, 0.002, 80)[1:], rtol=1e-9)
    assert (levels[0], levels[-1]) == (math.inf, 0)
    own = noise_levels("fm-ot", 9, sigma_min=0.01, sigma_max=10, rho=3)
    assert torch.allclose(own[1:-1], karras(9, 0.01, 10, rho=3)[1:], rtol=1e-6)


def test_polynomial_rho_keeps_to_a_paths_own_levels() -> None:
    """`ve` runs from 50 to 0.01: both within the grid's 80 and 0.002, so the whole ramp is its own."""
    assert torch.allclose(noise_levels("ve", 10), karras(11, 0.01, 50), rtol=1e-9)


def test_logsnr_has_equal_steps_within_its_limit() -> None:
    ve = PATHS.build("ve")
    assert torch.allclose(GRIDS.build("logsnr").on(ve, 12), GRIDS.build("uniform").on(ve, 12), rtol=1e-9, atol=1e-12)
    rectified = PATHS.build("rectified")
    half = rectified.half_log_snr(GRIDS.build({"name": "logsnr", "limit": 3}).on(rectified, 12))
    assert torch.allclose(half[1:-1], torch.linspace(-3, 3, 13, dtype=torch.float64)[1:-1], rtol=1e-9)
    assert (half[0], half[-1]) == (-math.inf, math.inf)


def test_cosine() -> None:
    times = GRIDS.build("cosine").times(6, 1.0)
    u = torch.linspace(0, 1, 7, dtype=torch.float64)
    assert torch.allclose(times, 1 - torch.cos(math.pi / 2 * u), rtol=1e-9, atol=1e-15)


class Half(Rectified):
    """The rectified path, left where noise and data weigh alike."""

    name = "half"
    end_time = 0.5


def test_grids_of_a_path_that_ends_early() -> None:
    """Half of the cosine grid's times; log-SNR up to 0; Karras' ramp down to 1, the path's own last level."""
    cosine, logsnr = (GRIDS.build(name).on(Half(), 6) for name in ("cosine", "logsnr"))
    assert torch.allclose(cosine, GRIDS.build("cosine").times(6, 1.0) / 2, rtol=1e-12)
    assert torch.allclose(
        Half().half_log_snr(logsnr)[1:], torch.linspace(-5, 0, 7, dtype=torch.float64)[1:], rtol=1e-9, atol=1e-12
    )
    levels = (-Half().half_log_snr(GRIDS.build("polynomial-rho").on(Half(), 6))).exp()
    assert torch.allclose(levels[1:], karras(7, 1, 80)[1:], rtol=1e-9)


@pytest.mark.parametrize("name", ["polynomial-rho", "logsnr"])
def test_refuses_what_has_no_signal_to_noise_ratio(name: str) -> None:
    for bridge in BRIDGES:
        with pytest.raises(UserError, match=f"grid '{name}' needs an affine path.*'{bridge}"):
            GRIDS.build(name).check(PATHS.build(bridge))
    GRIDS.build(name).check(PATHS.build("vp-linear"))


@pytest.mark.parametrize("low", [5, 1])
def test_levels_must_be_ordered(low: int) -> None:
    with pytest.raises(UserError, match=f"sigma_min = {low} must be below sigma_max = 1"):
        GRIDS.build({"name": "polynomial-rho", "sigma_min": low, "sigma_max": 1})
