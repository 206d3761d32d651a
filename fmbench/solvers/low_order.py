"""Runge-Kutta methods of orders one and two."""

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
