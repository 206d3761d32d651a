"""Exponential solvers: on the rectified path DDIM is Euler; Karras' and Lu's algorithms as their papers write them."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fmbench.errors import UserError
from fmbench.flow import PATHS
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.paths import Path, Schedule
from fmbench.flow.velocity import Velocity
from fmbench.randomness import generator
from fmbench.solvers import GRIDS, SOLVERS
from fmbench.solvers.exponential import Exponential

NAMES = [name for name in SOLVERS.names() if issubclass(SOLVERS.get(name), Exponential)]
AFFINE = [name for name in PATHS.names() if PATHS.get(name).affine and PATHS.get(name).sound]
BRIDGES = [name for name in PATHS.names() if not PATHS.get(name).affine]
FINITE = {"name": "ve", "sigma_min": 0.1, "sigma_max": 5.0}
MEANS = torch.tensor([[-1.0, 0.4], [1.0, -0.2], [0.3, 1.0]], dtype=torch.float64)
STDS = torch.tensor([[0.5, 0.6], [0.7, 0.4], [0.5, 0.5]], dtype=torch.float64)
Z = torch.randn(8, 2, generator=generator("exponential"), dtype=torch.float64)


def oracle(path: Path) -> Velocity:
    return Velocity(MixtureVelocity(path, MEANS, STDS, torch.tensor([0.3, 0.4, 0.3])), path=path)


def solve(name: str, path: Path, times: Tensor, z: Tensor = Z) -> Tensor:
    return SOLVERS.build(name).integrate(oracle(path), path.start(z), times).x


@lru_cache
def fine(name: str) -> Tensor:
    path = PATHS.build(FINITE if name == "finite" else name)
    return solve("rk4", path, path.warp(torch.linspace(0, 1, 129, dtype=torch.float64)))


@pytest.mark.parametrize("name", NAMES)
def test_order_on_an_oracle(name: str) -> None:
    path = PATHS.build(FINITE)
    errors = [(solve(name, path, GRIDS.build("uniform").on(path, k)) - fine("finite")).norm().item() for k in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(SOLVERS.get(name).order, abs=0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", AFFINE)
def test_every_path_to_both_its_ends(name: str, place: str) -> None:
    """Where half-log-SNR is infinite too: nothing is lost there, and finer is nearer."""
    path = PATHS.build(place)
    grid = GRIDS.build("logsnr" if place == "ve" else "uniform")
    errors = [(solve(name, path, grid.on(path, k)) - fine(place)).norm().item() for k in (16, 64)]
    assert errors[1] < 0.35 * errors[0]
    assert errors[1] < (0.4 if SOLVERS.get(name).order == 1 else 0.06) * (10 if place == "ve" else 1)
    assert torch.isfinite(solve(name, path, grid.on(path, 1))).all()


@pytest.mark.parametrize("name", NAMES)
def test_back_to_the_noise(name: str) -> None:
    path = PATHS.build("rectified")
    times = GRIDS.build("uniform").on(path, 200).flip(0)
    back = SOLVERS.build(name).integrate(oracle(path), fine("rectified"), times).x
    assert torch.allclose(back, Z, atol=0.1 if SOLVERS.get(name).order == 1 else 5e-3)


def test_ddim_on_the_rectified_path_is_euler() -> None:
    path = PATHS.build("rectified")
    for grid in ("uniform", "cosine"):
        times = GRIDS.build(grid).on(path, 9)
        assert torch.allclose(solve("ddim", path, times), solve("euler", path, times), rtol=1e-12, atol=1e-12)
    elsewhere = PATHS.build("vp-cosine")
    times = GRIDS.build("uniform").on(elsewhere, 9)
    assert (solve("ddim", elsewhere, times) - solve("euler", elsewhere, times)).abs().max() > 0.01


def test_ddim_is_exact_where_both_ends_are_known() -> None:
    """One data point: E[x1 | x] is that point at all times, and one step arrives."""
    for name in AFFINE:
        path = PATHS.build(name)
        point = torch.tensor([[0.7, -1.2]], dtype=torch.float64)
        field = MixtureVelocity(path, point, torch.zeros(1, 2), torch.ones(1))
        ends = torch.tensor([0.0, path.end_time], dtype=torch.float64)
        first, last = (path.schedule(t) for t in ends)
        x = first.alpha * point + first.sigma * Z
        once = SOLVERS.build("ddim").integrate(Velocity(field, path=path), x, ends).x
        # v is not defined by one point where σ = 0; to its neighbourhood one step is exact.
        assert torch.allclose(once, last.alpha * point + last.sigma * Z, atol=1e-8), name


def test_edm_heun_is_karras_algorithm() -> None:
    """Algorithm 1 for σ(t) = t, s(t) = 1: the denoiser D and noise levels alone, as the paper has it."""
    path = PATHS.build({"name": "ve", "sigma_min": 0.002, "sigma_max": 80})
    times = GRIDS.build("polynomial-rho").on(path, 12)
    velocity = oracle(path)

    def d(x: Tensor, level: Tensor) -> Tensor:
        t = path.time_at(-level.log())
        s = path.schedule(t)
        return velocity.field(t, x) / s.d_sigma  # (x − D) / σ, for v = σ̇ ε

    x, levels = path.start(Z), path.schedule(times).sigma
    for i, (level, after) in enumerate(pairwise(levels)):
        slope = d(x, level)
        nearer = x + (after - level) * slope
        x = nearer if i == 11 else x + (after - level) * (slope + d(nearer, after)) / 2
    assert torch.allclose(solve("edm-heun", path, times), x, rtol=1e-9, atol=1e-9)


def test_dpmpp_2m_is_lus_algorithm() -> None:
    """Algorithm 2 as the paper writes it, on steps that grow and shrink less than fourfold."""
    path = PATHS.build(FINITE)
    times = torch.linspace(0, 1, 11, dtype=torch.float64) ** 1.3
    velocity, x, earlier = oracle(path), path.start(Z), None
    s, half = path.schedule(times), path.half_log_snr(times)
    for i in range(1, 11):
        v = velocity.field(times[i - 1], x)
        x1 = x - s.sigma[i - 1] * v / s.d_sigma[i - 1]
        h = half[i] - half[i - 1]
        target = x1
        if earlier is not None:
            r = (half[i - 1] - half[i - 2]) / h
            target = (1 + 1 / (2 * r)) * x1 - 1 / (2 * r) * earlier
        x = s.sigma[i] / s.sigma[i - 1] * x - s.alpha[i] * torch.expm1(-h) * target
        earlier = x1
    assert torch.allclose(solve("dpmpp-2m", path, times), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("growth", "extrapolates"), [(3.9, True), (4.1, False), (0.2, True)])
def test_dpmpp_2m_extrapolates_over_no_more_than_four_times_what_it_has_seen(growth: float, extrapolates: bool) -> None:
    path = PATHS.build(FINITE)
    start = path.half_log_snr(torch.zeros((), dtype=torch.float64))
    times = path.time_at(start + 0.3 * torch.tensor([0, 1, 1 + growth], dtype=torch.float64))
    gap = (solve("dpmpp-2m", path, times) - solve("ddim", path, times)).abs().max()
    assert (gap > 1e-4) == extrapolates
    assert extrapolates or gap < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_refuses_what_has_no_signal_to_noise_ratio(name: str) -> None:
    solver = SOLVERS.build(name)
    for bridge in BRIDGES:
        with pytest.raises(UserError, match=f"solver '{name}' needs an affine path.*'{bridge}"):
            solver.check(PATHS.build(bridge))
    with pytest.raises(UserError, match="needs the path of its flow"):
        solver.integrate(Velocity(lambda t, x: x), Z, torch.linspace(0, 1, 3, dtype=torch.float64))
    for path in AFFINE:
        solver.check(PATHS.build(path))


class SlowStart(Path):
    name = "slow-start"
    method = "slow"

    def schedule(self, t: Tensor) -> Schedule:
        return Schedule(t**2, 1 - t, 2 * t, -torch.ones_like(t))


@pytest.mark.parametrize("name", NAMES)
def test_a_start_that_does_not_tell_the_data_keeps_order_and_calls(name: str) -> None:
    """α̇ = 0 where α is: the first step is a Runge-Kutta method's, and the rest is as everywhere."""
    path, solver = SlowStart(), SOLVERS.build(name)
    solver.check(path)
    right = solve("rk4", path, torch.linspace(0, 1, 513, dtype=torch.float64))
    grids = [torch.linspace(0, 1, k + 1, dtype=torch.float64) for k in (1, 64, 128, 256)]
    errors = []
    for times in grids:
        velocity = oracle(path)
        solution = solver.integrate(velocity, path.start(Z), times)
        assert (solution.steps, velocity.nfe) == (len(times) - 1, solver.calls_for(len(times) - 1))
        errors.append((solution.x - right).norm().item())
    assert math.log2(errors[2] / errors[3]) == pytest.approx(solver.order, abs=0.2)
