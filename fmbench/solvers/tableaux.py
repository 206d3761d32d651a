"""Explicit Runge-Kutta methods: a solver is its Butcher tableau, checked when it is declared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..flow.velocity import Velocity
from .base import Solution, Solver


@dataclass(frozen=True)
class Tableau:
    """Stage rows a (strictly lower triangular), weights b; nodes c are the row sums (Hairer, Nørsett, Wanner, II.1)."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))):
            raise ValueError("row i of a must hold i coefficients, for stages 2 … s")
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"the weights b must sum to 1, not {sum(self.b)}")

    @property
    def c(self) -> tuple[float, ...]:
        return (0.0, *(sum(row) for row in self.a))


class RungeKutta(Solver):
    """Base of the fixed-step methods. Subclasses set `tableau` and `order`; the number of stages is the calls a step."""

    tableau: ClassVar[Tableau]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls.calls_per_step = len(cls.tableau.b)

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        # All stage times and steps at once: making tensors inside the loop would cost as much as a small network's layer.
        nodes = torch.tensor(self.tableau.c, dtype=times.dtype, device=times.device)
        steps = times.diff()
        clock = (times[:-1, None] + steps[:, None] * nodes).flatten().unbind()
        stages = len(nodes)
        for i, h in enumerate(steps.tolist()):
            x = self._step(velocity, x, h, clock[i * stages : (i + 1) * stages])
        return Solution(x, len(steps))

    def _step(self, velocity: Velocity, x: Tensor, h: float, clock: tuple[Tensor, ...]) -> Tensor:
        k = [velocity(clock[0], x)]
        for row, t in zip(self.tableau.a, clock[1:], strict=True):
            k.append(velocity(t, _combine(x, h, row, k)))
        return _combine(x, h, self.tableau.b, k)


def _combine(x: Tensor, h: float, coefficients: tuple[float, ...], k: list[Tensor]) -> Tensor:
    """x + h Σ_i coefficients_i k_i, without touching terms that are zero."""
    for a, slope in zip(coefficients, k, strict=True):
        if a:
            x = torch.add(x, slope, alpha=h * a)
    return x


class Euler(RungeKutta):
    """x + h v(t, x)."""

    name = "euler"
    order = 1
    source = "Euler 1768"
    tableau = Tableau(a=(), b=(1.0,))


class Midpoint(RungeKutta):
    """The explicit midpoint rule."""

    name = "midpoint"
    order = 2
    source = "Hairer, Nørsett, Wanner 1993, II.1, table 1.1 (Runge 1895)"
    tableau = Tableau(a=((0.5,),), b=(0.0, 1.0))


class Heun(RungeKutta):
    """The explicit trapezoidal rule, two calls in every step (EDM drops the last call; this does not)."""

    name = "heun"
    order = 2
    source = "Heun 1900; Karras 2022, algorithm 1 without noise"
    tableau = Tableau(a=((1.0,),), b=(0.5, 0.5))


class RK4(RungeKutta):
    """The classical method of order four (torchdiffeq's `rk4` is the 3/8 rule)."""

    name = "rk4"
    order = 4
    source = "Kutta 1901; Hairer, Nørsett, Wanner 1993, II.1, table 1.2"
    tableau = Tableau(a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
