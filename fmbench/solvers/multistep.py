"""Linear multistep methods: one call a step, older slopes used again."""

from __future__ import annotations

from torch import Tensor

from ..flow.velocity import Velocity
from .base import Solution, Solver


class AdamsBashforth2(Solver):
    """The two-step Adams-Bashforth method for unequal steps; the first step is Euler's.

    With ω = h_i / h_{i−1}: x + h_i ((1 + ω/2) v_i − (ω/2) v_{i−1}). The local error of the one Euler step is of order
    h², which leaves the global order at two.
    """

    name = "ab2"
    order = 2
    calls_per_step = 1
    source = "Hairer, Nørsett, Wanner 1993, III.5, eq. 5.5 (Bashforth & Adams 1883)"

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        steps = times.diff().tolist()
        older, before = None, 0.0
        for t, h in zip(times.unbind(), steps, strict=False):
            v = velocity(t, x)
            if older is None:
                x = x.add(v, alpha=h)
            else:
                half = h / (2 * before)
                x = x.add(v, alpha=h * (1 + half)).sub_(older, alpha=h * half)
            older, before = v, h
        return Solution(x, len(steps), startup=1)
