"""Runge-Kutta methods of orders one to four."""

from __future__ import annotations

from .tableaux import RungeKutta, Tableau


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
    """The explicit trapezoidal rule, two calls in every step (`edm-heun` drops the last call; this does not)."""

    name = "heun"
    order = 2
    source = "Heun 1900; Karras 2022, algorithm 1 without noise"
    tableau = Tableau(a=((1.0,),), b=(0.5, 0.5))


class Ralston(RungeKutta):
    """The two-stage method with the least bound on its truncation error."""

    name = "ralston"
    order = 2
    source = "Ralston 1962"
    tableau = Tableau(a=((2 / 3,),), b=(1 / 4, 3 / 4))


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
