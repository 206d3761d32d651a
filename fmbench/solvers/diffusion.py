"""The samplers of diffusion models as exponential integrators: DDIM, DPM-Solver++(2M), Karras' Heun."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor

from ..flow.velocity import Velocity
from .base import Solution
from .exponential import Exponential, Moment
from .runge_kutta import Heun


class DDIM(Exponential):
    """α' x1 + σ' ε: both ends held over a step. On the rectified path this is Euler's method."""

    name = "ddim"
    order = 1
    calls_per_step = 1
    source = "Song, Meng & Ermon 2021, eq. 12 with η = 0; DPM-Solver-1 of Lu 2022a"

    def walk(self, velocity: Velocity, x: Tensor, moments: list[Moment]) -> Solution:
        for now, then in pairwise(moments):
            x = then.state(now.ends(x, velocity(now.t, x)))
        return Solution(x, len(moments) - 1)


class DPMpp2M(Exponential):
    """DPM-Solver++(2M): x1 extrapolated linearly in λ from the last two calls, the rest exact.

    With h the step in λ and r = h_{i−1}/h_i, x1 is replaced by x1 + (x1 − x1_{i−1}) / (2r). The step is DDIM's where λ is
    infinite at any of its three times (the first two steps from α = 0, the last to σ = 0), and where h exceeds four times
    the step before: a last step to a σ that is nearly zero would extrapolate without bound. Where λ runs to infinity on
    a grid of equal steps in t, the error goes with h² log(1/h).
    """

    name = "dpmpp-2m"
    order = 2
    calls_per_step = 1
    source = "Lu 2022b, algorithm 2"

    def walk(self, velocity: Velocity, x: Tensor, moments: list[Moment]) -> Solution:
        older, before = None, math.inf
        for now, then in pairwise(moments):
            ends = now.ends(x, velocity(now.t, x))
            x = then.state(ends)
            h = then.half_log_snr - now.half_log_snr
            if older is not None and math.isfinite(h) and math.isfinite(before) and abs(h) <= 4 * abs(before):
                pull = (then.alpha - then.sigma * now.alpha / now.sigma) * h / (2 * before)
                x = x.add_(ends.x1, alpha=pull).sub_(older, alpha=pull)
            older, before = ends.x1, h
        return Solution(x, len(moments) - 1, startup=1)


class EDMHeun(Exponential):
    """Karras' deterministic sampler: Heun's method for x/α in the noise level σ/α, the last step Euler's.

    A step is DDIM's, corrected by half the change of ε between its ends, which Heun's method in (x/α, σ/α) comes to.
    Where α = 0 the noise level is infinite: that step is Heun's for x/σ in α/σ, the same with x1 for ε. The last step
    has no correction (Karras' goes to σ = 0, where the network cannot be asked): nfe = 2 · steps − 1.
    """

    name = "edm-heun"
    order = 2
    calls_per_step = 2
    extra_calls = -1
    default_grid = "polynomial-rho"
    first = Heun
    source = "Karras 2022, algorithm 1 without churn"

    def walk(self, velocity: Velocity, x: Tensor, moments: list[Moment]) -> Solution:
        for now, then in pairwise(moments):
            ends = now.ends(x, velocity(now.t, x))
            x = then.state(ends)
            if then is moments[-1]:
                break
            after = then.ends(x, velocity(then.t, x))
            if now.alpha > 0:
                x = x.add(after.noise - ends.noise, alpha=(then.sigma - then.alpha * now.sigma / now.alpha) / 2)
            else:
                x = x.add(after.x1 - ends.x1, alpha=(then.alpha - then.sigma * now.alpha / now.sigma) / 2)
        return Solution(x, len(moments) - 1)
