"""dopri5 where it is hard: a field that is singular at its end, and fields that explode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fmbench.errors import BudgetExceeded, Diverged
from fmbench.flow import PATHS
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.velocity import Velocity, require_finite
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS

SPAN = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vp_linear_to_its_end(dtype: torch.dtype) -> None:
    """v grows like (1 − t)^−½; the end is 1 − 1e-5, where float32 times would be 6e-8 apart."""
    path = PATHS.build("vp-linear")
    mean, std = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    field = MixtureVelocity(path, mean, std, torch.ones(1))
    z0 = torch.randn(200, 2, generator=generator("vp-linear"), dtype=torch.float64)
    times = torch.tensor([0.0, path.end_time], dtype=torch.float64)
    velocity = Velocity(field)
    solution = SOLVERS.build("dopri5").integrate(velocity, z0.to(dtype), times)
    # One Gaussian: (x − α μ) / s(t) is constant along every path.
    first, last = (path.schedule(t) for t in times)
    s0, s1 = ((s.alpha**2 * std**2 + s.sigma**2).sqrt() for s in (first, last))
    truth = last.alpha * mean + s1 * (z0 - first.alpha * mean) / s0
    assert torch.allclose(solution.x.double(), truth, atol=1e-3)
    assert velocity.nfe < 500
    assert 0 < solution.steps <= velocity.nfe / 6


def test_a_loose_tolerance_is_cheaper() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        return torch.cos(10 * t) * x

    spent = []
    for tolerance in (1e-2, 1e-8):
        velocity = Velocity(field)
        SOLVERS.build({"name": "dopri5", "rtol": tolerance, "atol": tolerance}).integrate(velocity, torch.ones(2), SPAN)
        spent.append(velocity.nfe)
    assert spent[0] < spent[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_that_explodes_is_no_answer(dtype: torch.dtype) -> None:
    """dx/dt = x² from 2 is infinite at t = ½."""
    x = torch.full((3, 1), 2.0, dtype=dtype)
    with pytest.raises((Diverged, BudgetExceeded)):
        require_finite(SOLVERS.build("dopri5").integrate(Velocity(lambda t, x: x**2), x, SPAN).x, "sampling")


def test_a_field_without_numbers_is_no_answer() -> None:
    x = torch.ones(3, 1)
    with pytest.raises(Diverged):
        require_finite(SOLVERS.build("dopri5").integrate(Velocity(lambda t, x: x * torch.nan), x, SPAN).x, "sampling")


def test_a_budget_is_of_one_solve_and_within_the_velocitys_own() -> None:
    """10 calls: two to start, 6 for the first step, the next one's third is one too many."""
    solver, x = SOLVERS.build({"name": "dopri5", "rtol": 1e-9, "atol": 1e-9, "max_nfe": 10}), torch.ones(2)
    for before, own, spent in ((0, float("inf"), 10), (7, float("inf"), 17), (7, 12, 12)):
        velocity = Velocity(lambda t, x: torch.cos(30 * t) * x, max_nfe=own)
        velocity.nfe = before
        with pytest.raises(BudgetExceeded):
            solver.integrate(velocity, x, SPAN)
        assert (velocity.nfe, velocity.max_nfe) == (spent + 1, own)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize("name", ["dopri5", "dopri8", "bosh3", "adaptive-heun"])
def test_no_time_beyond_the_span_is_asked_for(name: str, span: tuple[float, float]) -> None:
    """A slow field far from the origin: its first step could be a thousand times the span."""
    asked = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        asked.append(t.item())
        return 1e-3 + 0 * x

    x = torch.full((2, 1), 1e3, dtype=torch.float64)
    end = SOLVERS.build(name).integrate(Velocity(field), x, torch.tensor(span, dtype=torch.float64)).x
    assert min(span) <= min(asked)
    assert max(asked) <= max(span)
    assert torch.allclose(end, x + 1e-3 * (span[1] - span[0]), rtol=1e-14)


@pytest.mark.parametrize("name", ["dopri5", "bosh3"])
def test_the_last_step_ends_at_the_end(name: str) -> None:
    """x = e^{sin 3t}: a last step beyond it, read by interpolation, errs by 30 to 50 times the tolerance."""
    solver = SOLVERS.build({"name": name, "rtol": 1e-6, "atol": 1e-6})
    x = torch.ones(2, 1, dtype=torch.float64)
    end = solver.integrate(Velocity(lambda t, x: 3 * torch.cos(3 * t) * x), x, SPAN).x
    assert torch.allclose(end, torch.sin(3 * SPAN[-1]).exp(), rtol=0, atol=5e-6)
