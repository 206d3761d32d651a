"""Fixed-step solvers against other people's, and against the textbook; an ill-formed tableau is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import root
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


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("euler", "euler"), ("midpoint", "midpoint"), ("heun3", "heun3"), ("rk4-3/8", "rk4")],
)
def test_agrees_with_torchdiffeq(name: str, theirs: str) -> None:
    assert torch.allclose(ours(name), odeint(field, X, TIMES, method=theirs)[-1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["dopri5", "dopri8", "bosh3", "adaptive-heun"])
def test_adaptive_ones_are_torchdiffeqs(name: str) -> None:
    """The same steps, though in time to go: the same calls, and the same end but for rounding."""
    calls = 0

    def counted(t: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return field(t, x)

    span, method = TIMES[[0, -1]], name.replace("-", "_")
    theirs = odeint(counted, X, span, method=method, rtol=1e-6, atol=1e-6, options={"step_t": span[-1:]})[-1]
    velocity = Velocity(field)
    solution = SOLVERS.build({"name": name, "rtol": 1e-6, "atol": 1e-6}).integrate(velocity, X, TIMES)
    assert torch.allclose(solution.x, theirs, rtol=1e-9, atol=1e-10)
    assert velocity.nfe == calls


def test_ssprk3_is_a_mean_of_euler_steps() -> None:
    """Shu and Osher's form, from which its stability follows."""
    x = X
    for t, end in pairwise(TIMES):
        h = end - t
        one = x + h * field(t, x)
        two = 3 / 4 * x + 1 / 4 * (one + h * field(end, one))
        x = 1 / 3 * x + 2 / 3 * (two + h * field(t + h / 2, two))
    assert torch.allclose(ours("ssprk3"), x, rtol=1e-13)


def test_ab2_is_the_integral_of_a_line_through_two_slopes() -> None:
    x, slopes, grid = X, [], TIMES.tolist()
    for i, (t, end) in enumerate(pairwise(grid)):
        slopes.append(field(torch.tensor(t, dtype=torch.float64), x))
        line = 0 if i == 0 else (slopes[-1] - slopes[-2]) / (t - grid[i - 1])
        x = x + (end - t) * slopes[-1] + (end - t) ** 2 / 2 * line
    assert torch.allclose(ours("ab2"), x, rtol=1e-13)
    solution = SOLVERS.build("ab2").integrate(Velocity(field), X, TIMES)
    assert (solution.steps, solution.startup) == (10, 1)


def test_heun_is_the_trapezoidal_rule() -> None:
    x = X
    for t, end in pairwise(TIMES):
        first = field(t, x)
        x = x + (end - t) / 2 * (first + field(end, x + (end - t) * first))
    assert torch.allclose(ours("heun"), x, rtol=1e-13)


def test_ralstons_second_slope_is_at_two_thirds() -> None:
    x = X
    for t, end in pairwise(TIMES):
        h = end - t
        first = field(t, x)
        x = x + h / 4 * (first + 3 * field(t + 2 / 3 * h, x + 2 / 3 * h * first))
    assert torch.allclose(ours("ralston"), x, rtol=1e-13)


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


def twin(**changes: Any) -> type[RungeKutta]:
    """A Runge-Kutta method as a plug-in would declare it: the classical one, but for `changes`."""
    classical = {"name": "twin", "order": 4, "source": "none", "tableau": SOLVERS.get("rk4").tableau}
    return type("Twin", (RungeKutta,), {**classical, **changes, "__module__": __name__})


BOGACKI = Tableau(a=((0.5,), (0.0, 0.75), (2 / 9, 1 / 3, 4 / 9)), b=(2 / 9, 1 / 3, 4 / 9, 0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 5}, None),  # orders above four are not checked …
        ({"order": 3}, "'twin' declares order 3, its tableau has order 4"),  # … below it, neither praise nor modesty
        ({"tableau": BOGACKI}, "declares order 4, its tableau has order 3"),
        (
            {"tableau": Tableau(a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 6, 1 / 3))},
            "declares order 4, its tableau has order 1",
        ),
        (
            {"tableau": Tableau(a=((0.5,), (0.01, 0.49), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))},
            "declares order 4, its tableau has order 2",
        ),
        ({"tableau": BOGACKI, "order": 3}, "declares first_same_as_last = False: it is True"),
        ({"first_same_as_last": True}, "declares first_same_as_last = True: it is False"),
    ],
)
def test_what_a_class_declares_is_checked_when_it_is_made(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert twin(**changes).calls_per_step == 4
        return
    with pytest.raises(TypeError, match=message):
        twin(**changes)


def test_a_last_slope_elsewhere_is_not_that_of_the_next_step() -> None:
    """The midpoint rule with a third stage at the step's end, but of Euler's step."""
    assert not Tableau(a=((0.5,), (1.0, 0.0)), b=(0.0, 1.0, 0.0)).first_same_as_last
    assert not SOLVERS.get("euler").tableau.first_same_as_last
    assert BOGACKI.first_same_as_last


def unmet(unknowns: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, Tableau]:
    """A tableau on these nodes, with Σ b c³ and a_32, a_42, a_43 as given; by how much it misses the trees beyond order two."""
    cubes, a32, a42, a43 = unknowns.tolist()
    b = np.linalg.solve(np.vander(c, increasing=True).T, [1, 1 / 2, 1 / 3, cubes])
    a = np.zeros((4, 4))
    a[2, 1], a[3, 1], a[3, 2] = a32, a42, a43
    a[:, 0] = c - a.sum(1)
    sums = (b @ a @ c - 1 / 6, b @ c**3 - 1 / 4, b * c @ a @ c - 1 / 8, b @ a @ c**2 - 1 / 12, b @ a @ a @ c - 1 / 24)
    return np.array(sums), Tableau(tuple(tuple(a[i, :i].tolist()) for i in (1, 2, 3)), tuple(b.tolist()))


@pytest.mark.parametrize("left_out", range(5))
def test_one_condition_less_is_one_order_less(left_out: int) -> None:
    """A tableau that meets all conditions of order four but one has the order that this leaves."""
    c = np.array([0.0, 0.3, 0.6, 0.9])
    others = [k for k in range(5) if k != left_out]
    solved = root(lambda z: unmet(z, c)[0][others], [0.25, 0.2, -1.3, -0.5], tol=1e-14)
    missed, tableau = unmet(solved.x, c)
    assert abs(missed[others]).max() < 1e-13
    assert abs(missed[left_out]) > 1e-4
    assert tableau.order == (2 if left_out == 0 else 3)


def test_nodes_and_weights_that_miss_a_third_make_order_two() -> None:
    """Σ b c = 1/2 and Σ b a c = 1/6, but Σ b c² = 3/8."""
    assert Tableau(a=((0.5,), (-1 / 3, 4 / 3)), b=(0.25, 0.5, 0.25)).order == 2


def test_embedded_weights_have_an_order_of_their_own() -> None:
    """Euler's step within Heun's."""
    pair = Tableau(a=((1.0,),), b=(0.5, 0.5), low=(1.0, 0.0))
    assert (pair.order, pair.low_order) == (2, 1)


def test_a_last_slope_is_used_again() -> None:
    """Bogacki and Shampine's four stages cost three calls a step and one to start, and change nothing else."""
    solver = twin(tableau=BOGACKI, order=3, first_same_as_last=True)()
    velocity = Velocity(field)
    solution = solver.integrate(velocity, X, TIMES)
    assert velocity.nfe == solver.calls_for(10) == 31
    assert solver.steps_for(31) == 10
    assert solution.startup == 1
    x = X
    for t, end in pairwise(TIMES):
        k: list[Tensor] = []
        for row, c in zip(((), *BOGACKI.a), BOGACKI.c, strict=True):
            k.append(field(t + c * (end - t), x + (end - t) * sum(a * v for a, v in zip(row, k, strict=False))))
        x = x + (end - t) * sum(w * v for w, v in zip(BOGACKI.b, k, strict=True))
    assert torch.allclose(solution.x, x, rtol=1e-13)


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


@pytest.mark.parametrize("low", [(0.5, 0.4), (1.0,)])
def test_ill_formed_embedded_weights_are_refused(low: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="embedded weights"):
        Tableau(((1.0,),), (0.5, 0.5), low)
