"""Explicit Runge-Kutta methods: a solver is its Butcher tableau, checked when its class is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..flow.velocity import Velocity
from .base import Solution, Solver

Row = tuple[float, ...]
CHECKED = 4  # orders up to this one are proven from the coefficients


@dataclass(frozen=True)
class Tableau:
    """Stage rows a (strictly lower triangular), weights b; nodes c are the row sums (Hairer, Nørsett, Wanner, II.1).

    `low` are the weights of an embedded method of lower order, for step control.
    """

    a: tuple[Row, ...]
    b: Row
    low: Row | None = None

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))):
            raise ValueError("row i of a must hold i coefficients, for stages 2 … s")
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"the weights b must sum to 1, not {sum(self.b)}")
        if self.low is not None and (len(self.low) != len(self.b) or abs(sum(self.low) - 1) > 1e-12):
            raise ValueError(f"the embedded weights must be as many as b and sum to 1, not {sum(self.low)}")

    @property
    def c(self) -> Row:
        return (0.0, *(sum(row) for row in self.a))

    @property
    def first_same_as_last(self) -> bool:
        """The last stage stands at the step's end: its row is b."""
        return len(self.a) > 0 and (*self.a[-1], 0.0) == self.b

    @property
    def order(self) -> int:
        """The order, up to 4, by the conditions of the rooted trees (Hairer, Nørsett, Wanner, table II.2.1)."""
        return _order(self.a, self.b, self.c)

    @property
    def low_order(self) -> int:
        """The order of the embedded weights, up to 4."""
        return _order(self.a, self.low or (), self.c)


def _order(a: tuple[Row, ...], b: Row, c: Row) -> int:
    def through(values: Row) -> Row:  # Σ_j a_ij values_j
        return (0.0, *(sum(x * y for x, y in zip(row, values, strict=False)) for row in a))

    c2 = tuple(x**2 for x in c)
    ac = through(c)
    trees = {
        1: [(tuple(1.0 for _ in c), 1.0)],
        2: [(c, 1 / 2)],
        3: [(c2, 1 / 3), (ac, 1 / 6)],
        4: [
            (tuple(x**3 for x in c), 1 / 4),
            (tuple(x * y for x, y in zip(c, ac, strict=True)), 1 / 8),
            (through(c2), 1 / 12),
            (through(ac), 1 / 24),
        ],
    }
    order = 0
    while order < CHECKED and all(
        abs(sum(w * value for w, value in zip(b, values, strict=True)) - wanted) < 1e-12
        for values, wanted in trees[order + 1]
    ):
        order += 1
    return order


class RungeKutta(Solver):
    """Base of the fixed-step methods. Subclasses set `tableau` and `order`, and `first_same_as_last` where it holds.

    What a class declares is checked against its tableau when the class is made: a wrong order or flag is a `TypeError`.
    """

    tableau: ClassVar[Tableau]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if not hasattr(cls, "tableau") or not hasattr(cls, "order"):
            return  # a base, or a mistake that its registry tells
        reached, reused = cls.tableau.order, cls.tableau.first_same_as_last
        if min(cls.order, CHECKED) != reached:
            raise TypeError(f"solver '{cls.name}' declares order {cls.order}, its tableau has order {reached}")
        if cls.first_same_as_last != reused:
            raise TypeError(
                f"solver '{cls.name}' declares first_same_as_last = {cls.first_same_as_last}: it is {reused}"
            )
        cls.calls_per_step = len(cls.tableau.b) - reused
        cls.extra_calls = int(reused)

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        # All stage times and steps at once: making tensors inside the loop would cost as much as a small network's layer.
        nodes = torch.tensor(self.tableau.c, dtype=times.dtype, device=times.device)
        steps = times.diff()
        clock = (times[:-1, None] + steps[:, None] * nodes).flatten().unbind()
        stages = len(nodes)
        k: list[Tensor] = []
        for i, h in enumerate(steps.tolist()):
            k = k[-1:] if self.first_same_as_last and k else [velocity(clock[i * stages], x)]
            for row, t in zip(self.tableau.a, clock[i * stages + 1 : (i + 1) * stages], strict=True):
                k.append(velocity(t, _combine(x, h, row, k)))
            x = _combine(x, h, self.tableau.b, k)
        return Solution(x, len(steps), startup=self.extra_calls)


def _combine(x: Tensor, h: float, coefficients: Row, k: list[Tensor]) -> Tensor:
    """x + h Σ_i coefficients_i k_i, without touching terms that are zero."""
    for a, slope in zip(coefficients, k, strict=True):
        if a:
            x = torch.add(x, slope, alpha=h * a)
    return x
