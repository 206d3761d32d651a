"""What every solver must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchdiffeq import odeint
from torchdiffeq._impl.dopri5 import Dopri5Solver

from fmbench.errors import BudgetExceeded, UserError
from fmbench.flow import PATHS
from fmbench.flow.paths import Path, column
from fmbench.flow.velocity import Velocity
from fmbench.solvers import GRIDS, SOLVERS, Solution, Solver
from fmbench.solvers.grids import Grid
from fmbench.solvers.per_sample import PAIR

PER_SAMPLE = SOLVERS.build({"name": "dopri5", "per_sample": True})
EVERY = [*(SOLVERS.build(name) for name in SOLVERS.names()), PER_SAMPLE]
FIXED = [solver for solver in EVERY if not solver.adaptive]
ADAPTIVE = [solver for solver in EVERY if solver.adaptive]
PATH = PATHS.build({"name": "ve", "sigma_min": 0.1, "sigma_max": 5.0})  # half-log-SNR finite at both ends
AFFINE = [path for path in (PATHS.build(name) for name in PATHS.names()) if path.affine]
START = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64).reshape(3, 2)


def field(t: Tensor, x: Tensor) -> Tensor:
    """dx/dt = ½ cos(2t) (1 + x²): nonlinear, non-autonomous, with the solution tan(sin(2t)/4 + arctan x_0)."""
    return 0.5 * torch.cos(2 * column(t, x)) * (1 + x**2)


def exact(t: float) -> Tensor:
    return torch.tan(START.atan() + math.sin(2 * t) / 4)


def uniform(steps: int, start: float = 0.0, end: float = 1.0) -> Tensor:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def with_tolerance(solver: Solver, tolerance: float) -> Solver:
    return solver.model_copy(update={"rtol": tolerance, "atol": tolerance}) if solver.adaptive else solver


def tight(solver: Solver) -> Solver:
    return with_tolerance(solver, {2: 1e-5, 3: 1e-7}.get(solver.order, 1e-9))


def solve(solver: Solver, times: Tensor, x: Tensor = START) -> Tensor:
    """The end state. The exponential solvers are consistent with any field; the path lends them its α and σ."""
    return solver.integrate(Velocity(field, path=PATH), x, times).x


class Witness:
    """A field that remembers when it was asked, and for how many samples."""

    def __init__(self, inner=field) -> None:
        self.inner, self.times, self.calls, self.samples = inner, [], 0, 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        assert t.shape in ((), x.shape[:1])
        assert t.dtype == torch.float64
        self.times += [t.min().item(), t.max().item()] if t.dim() else [t.item()]
        self.calls += 1
        self.samples += len(x)
        return self.inner(column(t, x), x)


def named(solvers: list[Solver]) -> dict:
    return {"argvalues": solvers, "ids": [solver.title() for solver in solvers]}


def stepped(solver: Solver, times: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The end state after exactly these steps, of an adaptive solver too: any error is allowed, and the times are given."""
    if not solver.adaptive:
        return solve(solver, times)
    loose, velocity, x = with_tolerance(solver, 1.0), Velocity(field), START
    if not solver.depends_on_batch:  # ends where it is told to: each step is a solve of its own
        for span in times.unfold(0, 2, 1):
            solution = loose.integrate(velocity, x, span)
            assert (solution.steps, solution.rejected) == (1, 0)
            x = solution.x
        return x
    with monkeypatch.context() as patch:
        to_go = {"step_t": (times[-1] - times)[1:]}  # where torchdiffeq's steps must end
        patch.setattr(
            "torchdiffeq.odeint", lambda *args, odeint=odeint, **more: odeint(*args, **more | {"options": to_go})
        )
        solution = loose.integrate(velocity, x, times)
    assert (solution.steps, solution.rejected) == (len(times) - 1, 0)
    return solution.x


def measured_order(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> float:
    """log2 of what half the step does to the error; high orders on a longer way, in fewer steps, far above rounding."""
    end, steps = {8: (4.0, 16), 5: (2.0, 32)}.get(solver.order, (1.0, 64))
    errors = [(stepped(solver, uniform(n, 0, end), monkeypatch) - exact(end)).norm().item() for n in (steps, 2 * steps)]
    assert errors[1] > 1e-13
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("solver", **named(EVERY))
def test_order_of_convergence(solver: Solver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured_order(solver, monkeypatch) == pytest.approx(solver.order, abs=0.2)


def test_a_wrong_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken twins: a slope taken too late, a multistep formula that forgets its second term."""

    class Late(type(SOLVERS.build("midpoint"))):  # type: ignore[misc]
        def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
            return super().integrate(Velocity(lambda t, y: velocity(t + 0.01 * t, y)), x, times)

    class Forgetful(type(SOLVERS.build("ab2"))):  # type: ignore[misc]
        def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
            for t, h in zip(times, times.diff(), strict=False):
                x = x + 1.5 * h * velocity(t, x) - 0.5 * h * velocity(t, x)
            return Solution(x, len(times) - 1)

    for twin in (Late(), Forgetful()):
        assert abs(measured_order(twin, monkeypatch) - twin.order) > 0.2, twin


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_wrong_coefficient_of_an_embedded_pair_is_seen(per_sample: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins' third slope is taken a little beside its place: in torchdiffeq's dopri5 and in ours."""
    solver = SOLVERS.build({"name": "dopri5", "per_sample": per_sample})
    beside = (44 / 45 + 1e-4, *PAIR.a[2][1:])
    ours = dataclasses.replace(PAIR, a=(*PAIR.a[:2], beside, *PAIR.a[3:]))
    monkeypatch.setattr("fmbench.solvers.per_sample.PAIR", ours)
    theirs = [torch.tensor(row, dtype=torch.float64) for row in ours.a]
    monkeypatch.setattr(Dopri5Solver, "tableau", Dopri5Solver.tableau._replace(beta=theirs))
    assert measured_order(solver, monkeypatch) < solver.order - 0.2


@pytest.mark.parametrize("solver", **named(EVERY))
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_calls_are_counted_at_the_network(solver: Solver, steps: int) -> None:
    witness = Witness()
    velocity = Velocity(witness, path=PATH)
    velocity.nfe = 5  # what was spent before
    solution = with_tolerance(solver, 1e-4).integrate(velocity, START, uniform(steps))
    assert velocity.nfe - 5 == witness.calls
    assert velocity.evaluations == witness.samples
    if solver.adaptive:
        trials = solution.steps + solution.rejected
        assert witness.samples / len(START) == pytest.approx(solution.startup + solver.calls_per_step * trials)
        assert solution.startup == solver.extra_calls
    else:
        assert (solution.steps, solution.rejected) == (steps, 0)
        assert witness.calls == solver.calls_for(steps) == steps * solver.calls_per_step + solver.extra_calls
        assert solver.steps_for(witness.calls) == steps
        assert solver.calls_for(steps, guidance=3.0) == 2 * witness.calls
        assert solver.steps_for(2 * witness.calls, guidance=3.0) == steps


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
def test_rejected_steps_are_counted(solver: Solver) -> None:
    """A field that is still until it shakes: the steps that ran into it are tried again."""
    witness = Witness(lambda t, x: torch.cos(40 * t) * x * (t > 0.5))
    solution = with_tolerance(solver, 1e-4).integrate(Velocity(witness), START, uniform(1))
    assert solution.rejected > 0
    trials = solution.steps + solution.rejected
    assert witness.samples / len(START) == pytest.approx(solution.startup + solver.calls_per_step * trials)


@pytest.mark.parametrize("solver", **named(EVERY))
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.0, 1 - 1e-5), (0.2, 0.7)])
@pytest.mark.parametrize("strength", [1.0, 1e-3])  # in a weak field the guess of a first step reaches far
def test_times_stay_between_the_ends(solver: Solver, start: float, end: float, strength: float) -> None:
    witness = Witness(lambda t, x: strength * torch.cos(3 * t) * x)
    solver.integrate(Velocity(witness, path=PATH), 30 * START.float(), uniform(7, start, end))
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


@pytest.mark.parametrize("solver", **named(EVERY))
def test_samples_see_each_other_where_the_solver_says_so(solver: Solver) -> None:
    together, alone = (solve(with_tolerance(solver, 1e-4), uniform(5), x) for x in (START, START[1:2]))
    same = torch.allclose(together[1:2], alone, rtol=1e-13, atol=0)  # rounding of a vectorised power
    assert same != solver.depends_on_batch


@given(nfe=st.integers(-3, 100))
def test_budgets_are_met_or_refused(nfe: int) -> None:
    for solver in FIXED:
        possible = {solver.calls_for(steps) for steps in range(1, 110)}
        if nfe in possible:
            assert solver.calls_for(solver.steps_for(nfe)) == nfe
            continue
        with pytest.raises(UserError, match=f"cannot meet nfe = {nfe}") as caught:
            solver.steps_for(nfe)
        near = [int(number) for number in re.findall(r"\d+", str(caught.value).rpartition("nearest")[2])]
        assert near
        assert set(near) <= possible
        assert min(abs(budget - nfe) for budget in near) == min(abs(budget - nfe) for budget in possible)


@pytest.mark.parametrize(("name", "nfe", "valid"), [("edm-heun", 4, "2 · steps − 1"), ("heun", 3, "multiples of 2")])
def test_which_budgets_can_be_met_is_said(name: str, nfe: int, valid: str) -> None:
    with pytest.raises(UserError, match=f"makes 2 calls a step. Valid: {valid}, nearest"):
        SOLVERS.build(name).steps_for(nfe)
    with pytest.raises(UserError, match="nfe = 1 with guidance 3: it makes 4 calls a step"):
        SOLVERS.build(name).steps_for(1, guidance=3.0)


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
def test_adaptive_solvers_take_no_budget(solver: Solver) -> None:
    with pytest.raises(UserError, match="give rtol and atol, not nfe"):
        solver.steps_for(12)


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
@pytest.mark.parametrize("granted", ["by the solver", "by the caller"])
def test_max_nfe_is_never_exceeded(solver: Solver, granted: str) -> None:
    def rough(t: Tensor, x: Tensor) -> Tensor:
        return 100 * torch.cos(300 * column(t, x)) * x

    witness = Witness(rough)
    velocity = Velocity(witness, max_nfe=40 if granted == "by the caller" else math.inf)
    limited = with_tolerance(solver, 1e-6).model_copy(update={"max_nfe": 40 if granted == "by the solver" else 1000})
    before = velocity.max_nfe
    with pytest.raises(BudgetExceeded, match="max_nfe = 40"):
        limited.integrate(velocity, START, uniform(1))
    assert witness.calls == 40
    assert velocity.max_nfe == before


@pytest.mark.parametrize("solver", **named(ADAPTIVE))
def test_tolerance_is_kept(solver: Solver) -> None:
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-9) if solver.order > 3 else (1e-3, 1e-5):
        chosen = with_tolerance(solver, tolerance)
        errors.append((solve(chosen, uniform(1)) - exact(1)).abs().max().item() / tolerance)
    assert max(errors) < 30, errors


@pytest.mark.parametrize("solver", **named(EVERY))
def test_facts_and_round_trip(solver: Solver) -> None:
    assert SOLVERS.build(solver.spec()) == solver
    assert solver.label() == solver.title() == SOLVERS.build(solver.spec()).title()
    if solver.adaptive:  # tolerances have columns of their own, a budget that is never reached shapes nothing
        assert with_tolerance(solver, 1e-3).model_copy(update={"max_nfe": 7}).title() == solver.title()
    assert solver.label().partition("[")[0] == solver.name
    assert solver.source
    assert solver.calls_per_step >= 1
    assert solver.default_grid in GRIDS.names()


@given(steps=st.integers(1, 300), path=st.sampled_from(AFFINE))
@settings(max_examples=25)
def test_every_grid_walks_from_zero_to_the_end_of_every_path(steps: int, path: Path) -> None:
    for name in GRIDS.names():
        times = GRIDS.build(name).on(path, steps)
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert times[0] == 0
        assert times[-1] == path.end_time
        assert (times.diff() > 0).all(), (name, path)


def test_plug_ins_of_three_arguments_keep_working() -> None:
    """A solver and a grid that know nothing of paths, as they were written before paths were handed on."""

    class Old(Solver):
        name, order, calls_per_step, source = "old", 1, 1, "none"

        def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
            return Solution(x + velocity(times[0], x), 1)

    class OldGrid(Grid):
        name = "old-grid"

        def times(self, steps: int, end_time: float) -> Tensor:
            return uniform(steps, 0, end_time)

    assert Old().integrate(Velocity(field, path=PATH), START, uniform(1)).rejected == 0
    assert Old().calls_for(3) == 3
    assert torch.equal(OldGrid().on(PATH, 4), uniform(4))
    Old().check(PATH)
    OldGrid().check(PATH)
