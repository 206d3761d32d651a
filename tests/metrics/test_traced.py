"""The flows to mixtures that quadrature knows: refined, against an independent quadrature, and against monotone maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fmbench.data import DATA
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.velocity import Velocity
from fmbench.metrics import METRICS, Exact, truth
from fmbench.metrics.traced import TracedFlow
from fmbench.solvers import SOLVERS

PAIR = {"name": "gaussian-mixture", "means": [[-2.0], [1.0]], "stds": [0.3, 0.5], "weights": [0.4, 0.6]}
PLANE = {
    "name": "gaussian-mixture",
    "means": [[-2.0, 0.5], [1.0, -1.0], [0.5, 2.0]],
    "covariances": [[[0.2, 0.1], [0.1, 0.5]], [[0.3, 0.0], [0.0, 0.3]], [[1.0, -0.3], [-0.3, 0.2]]],
    "weights": [0.2, 0.5, 0.3],
}
VALUES = ("transport_cost", "straightness", "path_energy", "one_step_error")
OF_NORMS = ("transport_cost_l1", "transport_cost_l2", "path_length")  # which have a kink at 0
each_path = pytest.mark.parametrize("path", ["rectified", "vp-cosine"])


@each_path
def test_refined_in_time_and_space(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the steps, 1.4 times the points a side; standard errors at n = 1,000 are 2 % of the values, a hundred times more."""
    made = PATHS.build(path), DATA.build(PLANE)
    coarse = truth._traced(*made)
    monkeypatch.setitem(truth.TRACED, 2, truth.TRACED[2] / 1.4)
    fine = truth._traced.__wrapped__(*made)
    fine = TracedFlow(fine.velocity, fine.z1, fine.weights, steps=2 * fine.steps)
    assert len(fine.z1) > 1.5 * len(coarse.z1)
    for name, near in [(name, 1e-6) for name in VALUES] + [(name, 2e-4) for name in OF_NORMS]:
        assert getattr(coarse, name)() == pytest.approx(getattr(fine, name)(), rel=near), name


@each_path
def test_energy_along_paths_is_the_energy_of_the_marginals(path: str) -> None:
    """∫ E‖v‖² over traced paths against the quadrature that solves nothing; the field of wider components is caught."""
    made = PATHS.build(path), DATA.build(PLANE)
    traced, energy = truth._traced(*made), truth._energies(*made)[1]
    assert traced.path_energy() == pytest.approx(energy, rel=1e-5)
    law = made[1].mixture()
    other = MixtureVelocity(made[0], law.means, 1.05 * law.stds, law.weights, law.axes)
    assert replace(traced, velocity=other).path_energy() != pytest.approx(energy, rel=1e-3)


def test_in_one_dimension_flows_cannot_cross() -> None:
    """Z1 is the increasing function of Z0, F⁻¹(Φ(z0)), whatever the path: W2² and the flow's cost at once."""
    data = DATA.build(PAIR)
    law = data.mixture()
    x, cell = truth._grid(law)
    z = (x - law.means[:, 0]) / law.stds[:, 0]
    below, above = torch.special.ndtr(z) @ law.weights, torch.special.ndtr(-z) @ law.weights
    z0 = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
    gap = torch.where(z0.isfinite(), x[:, 0] - z0, 0.0)  # what is beyond weighs nothing
    cost = (law.log_density(x).exp() @ gap.square()).item() * cell
    for path in ("rectified", "vp-cosine"):
        assert truth._traced(PATHS.build(path), data).transport_cost() == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize(("solver", "steps"), [("euler", 16), ("heun", 8), ("ab2", 16), ("dpmpp-2m", 16), ("rk4", 8)])
def test_solver_error_of_a_gaussian_two_ways(solver: str, steps: int) -> None:
    """2D points, exact where the field is affine, against the traced grid."""
    data = DATA.build({"name": "gaussian-mixture", "means": [[1.0, -0.5]], "covariances": [[[2.0, 0.9], [0.9, 0.5]]]})
    path, law = PATHS.build("rectified"), data.mixture()
    times, chosen = torch.linspace(0, 1, steps + 1, dtype=torch.float64), SOLVERS.build(solver)
    flow = Exact(path, DATA.build("normal"), data, COUPLINGS.build("independent"),
                 lambda v, z: chosen.integrate(Velocity(v, path=path), z, times).x)  # fmt: skip
    exact = truth.solver_error(flow)
    z0, z1, weights = truth._traced(path, data).cubature()
    field = MixtureVelocity(path, law.means, law.stds, law.weights, law.axes)
    gap = (flow.solve(field, z0) - z1).square().mean(1)
    assert (weights @ gap).sqrt().item() == pytest.approx(exact, rel=1e-3)
    assert abs(gap.sqrt() @ weights - exact) > 1e-2 * exact, "a mean of roots is another number"


@pytest.mark.parametrize(
    ("solver", "steps", "error"), [("euler", 16, 0.0933672), ("heun", 8, 0.0212990), ("rk4", 4, 0.0075313)]
)
def test_solver_error_of_a_mixture_is_resolved_in_space(solver: str, steps: int, error: float) -> None:
    """Against a program of its own in NumPy, on a grid of 0.12 standard deviations; one of 0.6 is 3e-3 and 4e-3 off."""
    path, data, chosen = PATHS.build("rectified"), DATA.build(PLANE), SOLVERS.build(solver)
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    flow = Exact(path, DATA.build("normal"), data, COUPLINGS.build("independent"),
                 lambda v, z: chosen.integrate(Velocity(v, path=path), z, times).x)  # fmt: skip
    assert truth.solver_error(flow) == pytest.approx(error, rel=1e-3)


def test_a_wide_mixture_is_traced_on_the_finest_grid_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was planned as known is missing: of the grids for solver errors some fits wherever the planned one does."""
    data = DATA.build({**PLANE, "weights": [0.3, 0.4, 0.3]})
    law = data.mixture()
    monkeypatch.setattr(truth, "POINTS", truth._counts(law)[2].prod().item())
    assert truth._counts(law, 0.4) is None
    assert truth._traced(PATHS.build("rectified"), data, truth.FINER[2]) is not None


def test_solver_error_of_euler_by_hand() -> None:
    """One Euler step of the rectified flow to N(m, s²): Z0 + v(0, Z0) = m, so that the error is that of s Z0."""
    data = DATA.build({"name": "gaussian-mixture", "means": [[1.5]], "stds": [[0.6]]})
    parts = PATHS.build("rectified"), DATA.build({"name": "normal", "dims": [1]}), data, COUPLINGS.build("independent")
    once = Exact(*parts, lambda v, z: z + v(torch.zeros(()), z))
    assert truth.solver_error(once) == pytest.approx(0.6, abs=1e-12)
    assert truth.solver_error(Exact(*parts)) is None


def test_planning_solves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "_traced", lambda *_: pytest.fail("a flow was traced"))
    data = DATA.build(PLANE)
    exact = Exact(PATHS.build("rectified"), DATA.build("normal"), data, COUPLINGS.build("independent"))
    names = ("transport_cost", "transport_cost_l1", "transport_cost_l2", "straightness", "straightness_normalized",
             "path_length_ratio", "one_step_error", "path_energy")  # fmt: skip
    assert all(METRICS.build(name).has_true_value(exact) for name in names)
