"""Runge-Kutta methods of order four, both of Kutta 1901."""

from __future__ import annotations

from .tableaux import RungeKutta, Tableau


class RK4(RungeKutta):
    """The classical method of order four (torchdiffeq's `rk4` is the 3/8 rule)."""

    name = "rk4"
    order = 4
    source = "Kutta 1901; Hairer, Nørsett, Wanner 1993, II.1, table 1.2"
    tableau = Tableau(a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))


class RK438(RungeKutta):
    """The 3/8 rule: what torchdiffeq and flow_matching call `rk4`."""

    name = "rk4-3/8"
    order = 4
    source = "Kutta 1901; Hairer, Nørsett, Wanner 1993, II.1, table 1.2"
    tableau = Tableau(a=((1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), b=(1 / 8, 3 / 8, 3 / 8, 1 / 8))
