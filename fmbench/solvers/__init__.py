"""Solvers of dx/dt = v(t, x). A fixed-step solver is a tableau; adaptive ones come from torchdiffeq."""

from __future__ import annotations

from ..registry import Registry
from .base import Solution, Solver
from .grids import GRIDS

SOLVERS: Registry[Solver] = Registry(
    "solver",
    {
        "euler": "fmbench.solvers.tableaux:Euler",
        "midpoint": "fmbench.solvers.tableaux:Midpoint",
        "heun": "fmbench.solvers.tableaux:Heun",
        "rk4": "fmbench.solvers.tableaux:RK4",
        "dopri5": "fmbench.solvers.adaptive:Dopri5",
    },
    listing="solvers",
)

__all__ = ["GRIDS", "SOLVERS", "Solution", "Solver"]
