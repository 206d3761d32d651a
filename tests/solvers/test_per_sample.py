"""dopri5 with a step for each sample: scipy's steps for one, no sample moved by another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from fmbench.errors import BudgetExceeded, Diverged
from fmbench.flow.paths import column
from fmbench.flow.velocity import Velocity
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS, Solution
from fmbench.solvers.per_sample import PAIR

SPAN = torch.tensor([0.0, 1.0], dtype=torch.float64)
SOLVER = SOLVERS.build({"name": "dopri5", "per_sample": True, "rtol": 1e-6, "atol": 1e-8})
RATES = torch.tensor([1.0, 4.0, 20.0, 60.0, 0.0], dtype=torch.float64)  # from easy to stiff, and at rest


def field_of(rates: Tensor):
    """dx/dt = −rate (x − cos(3t)) and its neighbour's mirror: each sample as stiff as its rate."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        rate = x[:, 1:2]  # carried along in the state, so that it follows its sample
        return torch.cat([-rate * (x[:, :1] - torch.cos(3 * column(t, x))), torch.zeros_like(rate)], dim=1)

    return field, torch.stack([torch.linspace(-1, 1, len(rates), dtype=torch.float64), rates], dim=1)


def solve(x: Tensor, span: Tensor = SPAN, **changes: object) -> tuple[Solution, Velocity]:
    velocity = Velocity(field_of(RATES)[0])
    return SOLVER.model_copy(update=changes).integrate(velocity, x, span), velocity


def test_the_pair_is_what_it_claims() -> None:
    assert (PAIR.order, PAIR.low_order) == (4, 4)  # five, of which four are checked, and four
    assert PAIR.first_same_as_last
    assert sum(b * c**4 for b, c in zip(PAIR.b, PAIR.c, strict=True)) == pytest.approx(1 / 5, abs=1e-14)
    assert sum(b * c**4 for b, c in zip(PAIR.low or (), PAIR.c, strict=True)) != pytest.approx(1 / 5, abs=1e-4)


@pytest.mark.parametrize("span", [(0.0, 1.0), (1.0, 0.25)])
@pytest.mark.parametrize("tolerance", [(1e-3, 1e-6), (1e-6, 1e-8), (1e-9, 1e-9)])
def test_takes_scipys_steps_sample_by_sample(span: tuple[float, float], tolerance: tuple[float, float]) -> None:
    field, x = field_of(RATES if span[0] < span[1] else RATES.clamp(max=4))
    rtol, atol = tolerance
    calls, trials = 0, 0.0
    together, velocity = solve(x, torch.tensor(span, dtype=torch.float64), rtol=rtol, atol=atol)
    for i, start in enumerate(x):
        theirs = solve_ivp(
            lambda t, y: field(torch.tensor(t), torch.from_numpy(y)[None])[0].numpy(), span, start.numpy(),
            method="RK45", rtol=rtol, atol=atol,
        )  # fmt: skip
        assert together.evaluations[i] == theirs.nfev
        calls += theirs.nfev
        trials += (theirs.nfev - 2) / 6
        np.testing.assert_allclose(together.x[i].numpy(), theirs.y[:, -1], rtol=1e-8, atol=1e-10)
    assert velocity.evaluations == calls
    assert (together.steps + together.rejected) * len(x) == pytest.approx(trials)
    assert together.startup == 2


def test_no_sample_sees_another() -> None:
    """To rounding (a vectorised and a plain power may differ in their last bit), and in its calls exactly."""
    _, x = field_of(RATES)
    together, velocity = solve(x)
    alone = [solve(x[i : i + 1]) for i in range(len(x))]
    assert torch.allclose(together.x, torch.cat([solution.x for solution, _ in alone]), rtol=1e-10, atol=1e-12)
    assert velocity.evaluations == sum(v.evaluations for _, v in alone)
    assert velocity.nfe == max(v.nfe for _, v in alone)
    crowd = torch.cat([x[2:3], x.repeat(20, 1)])
    assert torch.allclose(solve(crowd)[0].x[0], together.x[2], rtol=1e-10, atol=1e-12)


def test_one_error_norm_for_all_does_see_the_others() -> None:
    """The broken twin: torchdiffeq's dopri5 fails what holds above, in its results and in its calls."""
    _, x = field_of(RATES)
    plain = SOLVERS.build({"name": "dopri5", "rtol": 1e-6, "atol": 1e-8})
    velocity, alone = Velocity(field_of(RATES)[0]), Velocity(field_of(RATES)[0])
    together, one = plain.integrate(velocity, x, SPAN), plain.integrate(alone, x[:1], SPAN)
    assert not torch.allclose(together.x[:1], one.x, rtol=1e-10, atol=1e-12)
    assert velocity.nfe > 2 * alone.nfe


def test_accuracy_of_every_sample() -> None:
    """A stiff sample among many easy ones is as accurate as alone; with one norm for all it is not."""
    field, _ = field_of(RATES)
    draws = torch.rand(400, 2, generator=generator("easy"), dtype=torch.float64)
    x = torch.cat([torch.tensor([[1.0, 60.0]], dtype=torch.float64), draws])
    value, rate = x.unbind(1)
    forced = [rate * (rate * math.cos(3 * t) + 3 * math.sin(3 * t)) / (rate**2 + 9) for t in (0.0, 1.0)]
    exact = forced[1] + (value - forced[0]) * torch.exp(-rate)
    worst = {}
    for per_sample in (True, False):
        solver = SOLVERS.build({"name": "dopri5", "rtol": 1e-4, "atol": 1e-4, "per_sample": per_sample})
        worst[per_sample] = (solver.integrate(Velocity(field), x, SPAN).x[:, 0] - exact).abs().max().item()
    assert worst[True] < 3e-4
    assert worst[False] > 3 * worst[True], worst


def test_max_nfe_holds_for_the_slowest_sample() -> None:
    _, x = field_of(RATES)
    needed = solve(x)[1].nfe
    assert solve(x, max_nfe=needed)[1].nfe == needed
    with pytest.raises(BudgetExceeded, match=f"max_nfe = {needed - 1}"):
        solve(x, max_nfe=needed - 1)


@pytest.mark.parametrize("field", [lambda t, x: x**2, lambda t, x: x * torch.nan], ids=["explodes", "nan"])
def test_one_sample_without_an_answer_is_no_answer(field) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((Diverged, BudgetExceeded)):
        SOLVER.integrate(Velocity(field), torch.tensor([[0.1], [2.0]], dtype=torch.float64), SPAN)


def test_a_trial_that_leaves_the_field_s_domain_is_a_shorter_step() -> None:
    """dx/dt = −√x from 1: (1 − t/2)² to its end next to 0, beyond which there is no number."""
    lost = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        v = -x.sqrt()
        lost.append(v.isnan().any().item())
        return v

    found = SOLVER.model_copy(update={"rtol": 1e-3, "atol": 1e-3}).integrate(
        Velocity(field), torch.ones(1, 1, dtype=torch.float64), 1.9 * SPAN
    )
    assert any(lost)
    assert found.x.item() == pytest.approx(0.05**2, abs=1e-4)


def test_keys_of_the_batch_wide_solver_are_what_they_were() -> None:
    plain, ours = SOLVERS.build("dopri5"), SOLVERS.build({"name": "dopri5", "per_sample": True})
    assert plain.identity() == {"name": "dopri5", "version": 1, "rtol": 1e-5, "atol": 1e-5, "max_nfe": 10_000}
    assert ours.identity() == {**plain.identity(), "per_sample": True}
    assert (plain.title(), ours.title()) == ("dopri5", "dopri5[per_sample=True]")
    assert (plain.depends_on_batch, ours.depends_on_batch) == (True, False)
