"""Fixed-step solvers against other people's, and against the textbook; an ill-formed tableau is refused."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from fmbench.flow.velocity import Velocity
from fmbench.solvers import SOLVERS
from fmbench.solvers.tableaux import RungeKutta, Tableau

X = torch.tensor([[1.0, 0.5], [-1.0, 2.0], [0.3, -0.7]], dtype=torch.float64)
TIMES = torch.linspace(0, 1, 11, dtype=torch.float64) ** 1.5  # unequal steps


def field(t: Tensor, x: Tensor) -> Tensor:
    return torch.sin(3 * t + x.flip(1)) - 0.5 * x


def ours(name: str, times: Tensor = TIMES, **parameters: float) -> Tensor:
    return SOLVERS.build({"name": name, **parameters}).integrate(Velocity(field), X, times).x


@pytest.mark.parametrize("name", ["euler", "midpoint"])
def test_agrees_with_torchdiffeq(name: str) -> None:
    theirs = odeint(field, X, TIMES, method=name)[-1]
    assert torch.allclose(ours(name), theirs, rtol=1e-13, atol=1e-13)


def test_heun_is_the_trapezoidal_rule() -> None:
    x = X
    for t, end in pairwise(TIMES):
        first = field(t, x)
        x = x + (end - t) / 2 * (first + field(end, x + (end - t) * first))
    assert torch.allclose(ours("heun"), x, rtol=1e-13)


def test_rk4_is_the_classical_one_bit_for_bit() -> None:
    x = X
    grid = TIMES.tolist()
    for t, end in pairwise(grid):
        h = end - t
        start, middle, stop = (torch.tensor(t + c * h, dtype=torch.float64) for c in (0.0, 0.5, 1.0))
        k1 = field(start, x)
        k2 = field(middle, torch.add(x, k1, alpha=h * 0.5))
        k3 = field(middle, torch.add(x, k2, alpha=h * 0.5))
        k4 = field(stop, torch.add(x, k3, alpha=h))
        for k, weight in [(k1, 1 / 6), (k2, 1 / 3), (k3, 1 / 3), (k4, 1 / 6)]:
            x = torch.add(x, k, alpha=h * weight)
    assert torch.equal(ours("rk4"), x)


def test_rk4_is_not_torchdiffeqs() -> None:
    """Theirs is the 3/8 rule: of the same order, but another method."""
    theirs = odeint(field, X, TIMES, method="rk4")[-1]
    difference = (ours("rk4") - theirs).abs().max()
    assert 1e-7 < difference < 1e-3


@pytest.mark.parametrize("method", ["DOP853", "RK45"])
def test_fine_solves_agree_with_scipy(method: str) -> None:
    def flat(t: float, x: np.ndarray) -> np.ndarray:
        return field(torch.tensor(t), torch.from_numpy(x.reshape(3, 2))).numpy().ravel()

    solved = solve_ivp(flat, (0, 1), X.numpy().ravel(), method=method, rtol=1e-11, atol=1e-11)
    truth = torch.from_numpy(solved.y[:, -1].reshape(3, 2))
    assert torch.allclose(ours("rk4", torch.linspace(0, 1, 301, dtype=torch.float64)), truth, atol=1e-9)
    assert torch.allclose(ours("dopri5", rtol=1e-9, atol=1e-9), truth, atol=1e-8)
    assert not torch.allclose(ours("euler", torch.linspace(0, 1, 301, dtype=torch.float64)), truth, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SOLVERS.names() if issubclass(SOLVERS.get(n), RungeKutta)])
def test_order_conditions(name: str) -> None:
    """Up to order four (Hairer, Nørsett, Wanner, II.1, theorem 1.5 and table II.2.1), in exact enough arithmetic."""
    solver = SOLVERS.get(name)
    b, c = np.array(solver.tableau.b), np.array(solver.tableau.c)
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(solver.tableau.a, start=1):
        a[i, : len(row)] = row
    conditions = [
        (1, b.sum(), 1), (2, b @ c, 1 / 2), (3, b @ c**2, 1 / 3), (3, b @ a @ c, 1 / 6), (4, b @ c**3, 1 / 4),
        (4, (b * c) @ a @ c, 1 / 8), (4, b @ a @ c**2, 1 / 12), (4, b @ a @ a @ c, 1 / 24),
    ]  # fmt: skip
    for order, value, wanted in conditions:
        if order <= solver.order:
            assert value == pytest.approx(wanted, abs=1e-14), order
    assert solver.calls_per_step == len(b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (((0.5,),), (0.5, 0.4), "must sum to 1"),
        (((0.5, 0.5),), (0.0, 1.0), "row i of a"),
        ((), (0.5, 0.5), "row i of a"),
        (((0.5,), (0.0, 1.0)), (0.0, 1.0), "row i of a"),
    ],
)
def test_an_ill_formed_tableau_is_refused(a: tuple, b: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tableau(a, b)
