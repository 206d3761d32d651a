"""Exact distances between where a solver ends and the data: against quadrature, against the grid, and against samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmbench.data import DATA
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.velocity import Velocity
from fmbench.metrics import METRICS, Exact, ends, truth
from fmbench.metrics.distances import GaussianKernel, Kernel, minus_distance
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS
from fmbench.statistics import Estimate

N = 1000
KERNELS = [minus_distance, GaussianKernel(0.7)]
TILTED = {"means": [[1.0, -0.5]], "covariances": [[[2.0, 0.9], [0.9, 0.5]]]}
LAWS = {
    "line": {"means": [[1.5]], "stds": [[0.6]]},
    "tilted": TILTED,
    "space": {"means": [[1.0, -0.5, 0.2]], "stds": [[0.5, 1.0, 2.0]]},
    "pair": {"means": [[-2.0], [1.0]], "stds": [0.3, 0.5], "weights": [0.4, 0.6]},
    "plane": {
        "means": [[-2.0, 0.5], [1.0, -1.0], [0.5, 2.0]],
        "covariances": [[[0.2, 0.1], [0.1, 0.5]], [[0.3, 0.0], [0.0, 0.3]], [[1.0, -0.3], [-0.3, 0.2]]],
        "weights": [0.2, 0.5, 0.3],
    },
}


def solved(law: str, solver: str, steps: int, path: str = "rectified") -> Exact:
    data, made, chosen = DATA.build({"name": "gaussian-mixture", **LAWS[law]}), PATHS.build(path), SOLVERS.build(solver)
    times = made.warp(torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    source = DATA.build({"name": "normal", "dims": data.shape})
    return Exact(made, source, data, COUPLINGS.build("independent"),
                 lambda v, z: chosen.integrate(Velocity(v, path=made), z, times).x)  # fmt: skip


def samples(flow: Exact) -> tuple[Tensor, Tensor]:
    """Where the solver ends from N normal points, and N points of the data."""
    law, rng = flow.data.mixture(), generator("ends", N)
    z0 = torch.randn(N, law.means.shape[1], generator=rng, dtype=torch.float64)
    return flow.solve(truth.velocity(flow.path, law), z0), law.draw(N, rng)[0].double()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("std", [0.0, 0.3, 2.0])
def test_expected_kernel_by_quadrature(kernel: Kernel, std: float) -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weights = torch.exp(-0.5 * x**2)
    value = (weights @ kernel((0.8 + std * x).square())) / weights.sum()
    mean = torch.tensor([0.8], dtype=torch.float64)
    assert kernel.expected(mean, torch.tensor([std]).double()).item() == pytest.approx(value.item(), abs=1e-7)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("solver", "steps"), [("euler", 1), ("euler", 4), ("heun", 3), ("dpmpp-2m", 4)])
@pytest.mark.parametrize("name", ["energy_distance", "mmd", "energy_coefficient"])
def test_samples_have_the_exact_distance(name: str, law: str, solver: str, steps: int) -> None:
    """Unbiased statistics, so within their errors; the coefficient is biased by 1 / n."""
    flow = solved(law, solver, steps)
    metric = METRICS.build({"name": "mmd", "bandwidth": 0.7} if name == "mmd" else name)
    assert metric.has_true_value(flow)
    exact, measured = metric.true_value(flow), metric.distance(*samples(flow))
    assert _agree(measured, exact)
    if steps == 1:  # far from the data: half the distance would be seen
        assert not _agree(measured, exact / 2)


def _agree(measured: Estimate, exact: float) -> bool:
    return abs(measured.value - exact) < 4.5 * measured.stderr + 2 / N * (1 + abs(exact))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("solver", "steps"), [("euler", 1), ("euler", 6), ("rk4", 2)])
def test_the_grid_agrees_with_closed_forms(kernel: Kernel, solver: str, steps: int) -> None:
    """Of a Gaussian in the plane both are known; between them lies how coarse the grid is."""
    flow = solved("tilted", solver, steps)
    z0, z1, weights = truth._traced(flow.path, flow.data).cubature()
    end = flow.solve(truth.velocity(flow.path, flow.data.mixture()), z0)
    across = ends._among(kernel, end, z1, weights)
    on_grid = ends._among(kernel, end, end, weights) + ends._among(kernel, z1, z1, weights) - 2 * across
    assert on_grid == pytest.approx(ends.discrepancy(kernel, flow), abs=1e-3 * abs(across))


def test_what_is_not_known() -> None:
    """Other kernels than a given one, the flow itself, an adaptive solver's steps."""
    flow = solved("plane", "euler", 2)
    assert not METRICS.build("mmd").has_true_value(flow)
    assert METRICS.build("mmd").true_value(flow) is None
    assert not METRICS.build("marginal_gap").has_true_value(Exact(flow.path, flow.source, flow.data, flow.coupling))
