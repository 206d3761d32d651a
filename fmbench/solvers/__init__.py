"""Solvers of dx/dt = v(t, x). Fixed-step ones are data or short loops; adaptive ones come from torchdiffeq."""

from __future__ import annotations

from ..registry import Registry
from .base import Solution, Solver
from .grids import GRIDS

SOLVERS: Registry[Solver] = Registry(
    "solver",
    {
        "euler": "fmbench.solvers.low_order:Euler",
        "midpoint": "fmbench.solvers.low_order:Midpoint",
        "heun": "fmbench.solvers.low_order:Heun",
        "ralston": "fmbench.solvers.low_order:Ralston",
        "heun3": "fmbench.solvers.third_order:Heun3",
        "ssprk3": "fmbench.solvers.third_order:SSPRK3",
        "rk4": "fmbench.solvers.fourth_order:RK4",
        "rk4-3/8": "fmbench.solvers.fourth_order:RK438",
        "ab2": "fmbench.solvers.multistep:AdamsBashforth2",
        "ddim": "fmbench.solvers.exponential:DDIM",
        "dpmpp-2m": "fmbench.solvers.exponential:DPMpp2M",
        "edm-heun": "fmbench.solvers.exponential:EDMHeun",
        "dopri5": "fmbench.solvers.adaptive:Dopri5",
        "dopri8": "fmbench.solvers.adaptive:Dopri8",
        "bosh3": "fmbench.solvers.adaptive:Bosh3",
        "adaptive-heun": "fmbench.solvers.adaptive:AdaptiveHeun",
    },
    listing="solvers",
)

__all__ = ["GRIDS", "SOLVERS", "Solution", "Solver"]
