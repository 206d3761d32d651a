"""Exponential integrators: the linear part of a path's flow is solved exactly, the network's part is extrapolated.

On an affine path x = α x1 + σ ε, a velocity tells what the network believes of both ends ([x1; ε] =
[α σ; α̇ σ̇]⁻¹ [x; v]). Holding both from one time to the next gives DDIM's step, α' x1 + σ' ε, which is well defined where
α = 0 or σ = 0 as well; half the logarithm of the signal-to-noise ratio, λ = log(α/σ), is infinite there.

Where α̇ = 0 with α at the start (α = t²) the velocity there tells of the noise alone, and the first step is one of a
Runge-Kutta method with as many calls: Euler's, whose local error of order h² made once leaves order two, or Heun's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from torch import Tensor

from ..errors import UserError
from ..flow.paths import Path
from ..flow.velocity import Velocity
from .base import Solution, Solver
from .runge_kutta import Euler
from .tableaux import RungeKutta


class Ends(NamedTuple):
    """What a state and its velocity say of the path's two ends: data and noise, each `(B, *shape)`."""

    x1: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Moment:
    """A path at one time of a grid, as plain numbers."""

    t: Tensor
    alpha: float
    sigma: float
    d_alpha: float
    d_sigma: float
    half_log_snr: float

    @property
    def wronskian(self) -> float:
        """α σ̇ − α̇ σ: where it is 0, a velocity does not determine both ends."""
        return self.alpha * self.d_sigma - self.d_alpha * self.sigma

    def ends(self, x: Tensor, v: Tensor) -> Ends:
        x1 = (x * self.d_sigma).sub_(v, alpha=self.sigma).div_(self.wronskian)
        noise = (v * self.alpha).sub_(x, alpha=self.d_alpha).div_(self.wronskian)
        return Ends(x1, noise)

    def state(self, ends: Ends) -> Tensor:
        return (ends.x1 * self.alpha).add_(ends.noise, alpha=self.sigma)


class Exponential(Solver):
    """Base of the exponential solvers, on any affine path. Implement `walk`."""

    first: ClassVar[type[RungeKutta]] = Euler  # makes the first step where the velocity does not determine both ends

    def check(self, path: Path) -> None:
        require_affine(path, f"solver '{self.name}'")

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        if velocity.path is None:
            raise UserError(f"solver '{self.name}' needs the path of its flow: give Velocity(field, path=…)")
        schedule = velocity.path.schedule(times)
        parts = (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma, velocity.path.half_log_snr(times))
        numbers = [part.tolist() for part in parts]
        moments = [Moment(*values) for values in zip(times.unbind(), *numbers, strict=True)]
        if moments[0].wronskian != 0:
            return self.walk(velocity, x, moments)
        first = Euler() if len(moments) == 2 else self.first()  # a last step costs one call with all of them
        rest = self.walk(velocity, first.integrate(velocity, x, times[:2]).x, moments[1:])
        return replace(rest, steps=rest.steps + 1)

    def walk(self, velocity: Velocity, x: Tensor, moments: list[Moment]) -> Solution:
        """From x at the first moment to the last."""
        raise NotImplementedError


def require_affine(path: Path, what: str) -> None:
    """`UserError` where x_t is not α x1 + σ x0 alone: such a path has no signal-to-noise ratio."""
    if not path.affine:
        raise UserError(f"{what} needs an affine path, x = α x1 + σ x0; path '{path.label()}' is none. Use 'heun'.")
