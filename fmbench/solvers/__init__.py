"""Solvers of dx/dt = v(t, x). Fixed-step ones are data or short loops; adaptive ones come from torchdiffeq."""

from __future__ import annotations

from ..registry import Registry
from .base import Solution, Solver
from .grids import GRIDS

SOLVERS: Registry[Solver] = Registry(
    "solver",
    {
        "euler": "fmbench.solvers.runge_kutta:Euler",
        "midpoint": "fmbench.solvers.runge_kutta:Midpoint",
        "heun": "fmbench.solvers.runge_kutta:Heun",
        "ralston": "fmbench.solvers.runge_kutta:Ralston",
        "heun3": "fmbench.solvers.runge_kutta:Heun3",
        "ssprk3": "fmbench.solvers.runge_kutta:SSPRK3",
        "rk4": "fmbench.solvers.runge_kutta:RK4",
        "rk4-3/8": "fmbench.solvers.runge_kutta:RK438",
        "ab2": "fmbench.solvers.multistep:AdamsBashforth2",
        "ddim": "fmbench.solvers.diffusion:DDIM",
        "dpmpp-2m": "fmbench.solvers.diffusion:DPMpp2M",
        "edm-heun": "fmbench.solvers.diffusion:EDMHeun",
        "dopri5": "fmbench.solvers.adaptive:Dopri5",
        "dopri8": "fmbench.solvers.adaptive:Dopri8",
        "bosh3": "fmbench.solvers.adaptive:Bosh3",
        "adaptive-heun": "fmbench.solvers.adaptive:AdaptiveHeun",
    },
    listing="solvers",
)

__all__ = ["GRIDS", "SOLVERS", "Solution", "Solver"]
