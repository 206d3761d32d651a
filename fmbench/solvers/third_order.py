"""Runge-Kutta methods of order three."""

from __future__ import annotations

from .tableaux import RungeKutta, Tableau


class Heun3(RungeKutta):
    """Heun's method of order three."""

    name = "heun3"
    order = 3
    source = "Heun 1900; Hairer, Nørsett, Wanner 1993, II.1, table 1.1"
    tableau = Tableau(a=((1 / 3,), (0.0, 2 / 3)), b=(1 / 4, 0.0, 3 / 4))


class SSPRK3(RungeKutta):
    """Strong stability preserving: a convex combination of Euler steps, of the largest stable step for three stages."""

    name = "ssprk3"
    order = 3
    source = "Shu & Osher 1988, eq. 2.18; Gottlieb, Shu & Tadmor 2001"
    tableau = Tableau(a=((1.0,), (1 / 4, 1 / 4)), b=(1 / 6, 1 / 6, 2 / 3))
