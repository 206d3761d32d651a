"""What every solver must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fmbench.errors import BudgetExceeded, UserError
from fmbench.flow.velocity import Velocity
from fmbench.solvers import GRIDS, SOLVERS, Solver

EVERY = [SOLVERS.build(name) for name in SOLVERS.names()]
FIXED = [solver for solver in EVERY if not solver.adaptive]
ADAPTIVE = [solver for solver in EVERY if solver.adaptive]
START = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(3, 2)


def field(t: Tensor, x: Tensor) -> Tensor:
    """dx/dt = ½ cos(2t) (1 + x²): nonlinear, non-autonomous, with the solution tan(sin(2t)/4 + arctan x_0)."""
    return 0.5 * torch.cos(2 * t) * (1 + x**2)


def exact(t: float) -> Tensor:
    return torch.tan(START.atan() + math.sin(2 * t) / 4)


def uniform(steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def tight(solver: Solver) -> Solver:
    return SOLVERS.build({"name": solver.name, "rtol": 1e-9, "atol": 1e-9}) if solver.adaptive else solver


def solve(solver: Solver, times: Tensor, x: Tensor = START) -> Tensor:
    return solver.integrate(Velocity(field), x, times).x


class Witness:
    """A field that remembers when it was asked."""

    def __init__(self, inner=field) -> None:
        self.inner, self.times = inner, []

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        assert t.dim() == 0
        assert t.dtype == torch.float64
        self.times.append(t.item())
        return self.inner(t, x)


def named(solvers: list[Solver]) -> dict:
    return {"argvalues": solvers, "ids": [solver.name for solver in solvers]}


@pytest.mark.parametrize("solver", **named(FIXED))
def test_order_of_convergence(solver: Solver) -> None:
    steps = [32, 64, 128]
    errors = [(solve(solver, uniform(n)) - exact(1)).norm().item() for n in steps]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders[-1] == pytest.approx(solver.order, abs=0.2), orders


@pytest.mark.parametrize("solver", **named(EVERY))
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_calls_are_counted_at_the_network(solver: Solver, steps: int) -> None:
    witness = Witness()
    velocity = Velocity(witness)
    velocity.nfe = 5  # what was spent before
    solution = solver.integrate(velocity, START, uniform(steps))
    assert velocity.nfe - 5 == len(witness.times)
    if solver.adaptive:
        assert len(witness.times) >= solver.calls_per_step * solution.steps
    else:
        assert solution.steps == steps
        assert len(witness.times) == steps * solver.calls_per_step
        assert solver.steps_for(len(witness.times)) == steps


@pytest.mark.parametrize("solver", **named(EVERY))
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.0, 1 - 1e-5), (0.2, 0.7)])
@pytest.mark.parametrize("strength", [1.0, 1e-3])  # in a weak field the guess of a first step reaches far
def test_times_stay_between_the_ends(solver: Solver, start: float, end: float, strength: float) -> None:
    witness = Witness(lambda t, x: strength * torch.cos(3 * t) * x)
    solver.integrate(Velocity(witness), 30 * START.float(), uniform(7, start, end))
    assert witness.times[0] == pytest.approx(start, abs=1e-7)
    assert min(witness.times) >= min(start, end)
    assert max(witness.times) <= max(start, end)


@pytest.mark.parametrize("solver", **named(EVERY))
def test_backward_undoes_forward(solver: Solver) -> None:
    there = solve(tight(solver), uniform(200))
    back = solve(tight(solver), uniform(200, 1, 0), there)
    error = 10 * (solve(tight(solver), uniform(200)) - exact(1)).abs().max()
    assert torch.allclose(back, START, atol=max(error.item(), 1e-8))
    assert not torch.allclose(there, START, atol=0.01)


@pytest.mark.parametrize("solver", **named(EVERY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_keeps_shape_and_dtype(solver: Solver, dtype: torch.dtype) -> None:
    x = START.to(dtype).reshape(3, 1, 2, 1)
    end = solve(solver, uniform(20), x)
    assert end.shape == x.shape
    assert end.dtype == dtype
    assert torch.equal(x, START.to(dtype).reshape(3, 1, 2, 1)), "the start was overwritten"


@pytest.mark.parametrize("solver", **named(FIXED))
def test_samples_do_not_see_each_other(solver: Solver) -> None:
    together = solve(solver, uniform(5))
    assert torch.allclose(together[1:2], solve(solver, uniform(5), START[1:2]), rtol=1e-14)


@given(nfe=st.integers(-3, 100))
def test_budgets_are_met_or_refused(nfe: int) -> None:
    for solver in FIXED:
        calls = solver.calls_per_step
        if nfe > 0 and nfe % calls == 0:
            assert solver.steps_for(nfe) * calls == nfe
            continue
        with pytest.raises(UserError, match=f"cannot meet nfe = {nfe}") as caught:
            solver.steps_for(nfe)
        near = [int(number) for number in re.findall(r"\d+", str(caught.value).rpartition("nearest")[2])]
        assert near
        assert all(solver.steps_for(budget) * calls == budget for budget in near)
        assert min(abs(budget - nfe) for budget in near) == min(
            abs(calls * n - nfe) for n in range(1, max(nfe, 1) // calls + 2)
        )


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
def test_adaptive_solvers_take_no_budget(solver: Solver) -> None:
    with pytest.raises(UserError, match="give rtol and atol, not nfe"):
        solver.steps_for(12)


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
@pytest.mark.parametrize("granted", ["by the solver", "by the caller"])
def test_max_nfe_is_never_exceeded(solver: Solver, granted: str) -> None:
    def rough(t: Tensor, x: Tensor) -> Tensor:
        return 100 * torch.cos(300 * t) * x

    witness = Witness(rough)
    velocity = Velocity(witness, max_nfe=40 if granted == "by the caller" else math.inf)
    limited = SOLVERS.build({"name": solver.name, "max_nfe": 40 if granted == "by the solver" else 1000})
    before = velocity.max_nfe
    with pytest.raises(BudgetExceeded, match="max_nfe = 40"):
        limited.integrate(velocity, START, uniform(1))
    assert len(witness.times) == 40
    assert velocity.max_nfe == before


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
def test_tolerance_is_kept(solver: Solver) -> None:
    errors = []
    for tolerance in (1e-3, 1e-6, 1e-9):
        chosen = SOLVERS.build({"name": solver.name, "rtol": tolerance, "atol": tolerance})
        errors.append((solve(chosen, uniform(1)) - exact(1)).abs().max().item() / tolerance)
    assert max(errors) < 30, errors


@pytest.mark.parametrize("solver", **named(EVERY))
def test_facts_and_round_trip(solver: Solver) -> None:
    assert SOLVERS.build(solver.spec()) == solver
    assert solver.label() == solver.name
    assert solver.source
    assert solver.calls_per_step >= 1


@given(steps=st.integers(1, 300), end=st.sampled_from([1.0, 1 - 1e-5, 0.3]))
def test_every_grid_walks_from_zero_to_the_end(steps: int, end: float) -> None:
    for name in GRIDS.names():
        times = GRIDS.build(name).times(steps, end)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert times[0] == 0
        assert times[-1] == end
        assert (times.diff() > 0).all()
