"""Time laws: from which distribution on [0, 1] training draws t. Each is its quantile function."""

from __future__ import annotations

import math

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from ..errors import UserError, blamed
from ..randomness import generator, only_given_generators
from ..registry import Component, Registry
from .paths import Path


class TimeLaw(Component):
    """A distribution of training times. Implement `quantile`, or for a law that is not of time itself `draw`."""

    def check(self, path: Path) -> None:
        """Raises `UserError` where the law makes no sense on this path."""

    def quantile(self, u: Tensor) -> Tensor:
        """The u-quantile on [0, 1] of a law of t/end_time, elementwise."""
        raise NotImplementedError

    def draw(self, n: int, rng: torch.Generator, path: Path) -> Tensor:
        """n times `(n,)`, float64, in [0, path.end_time]."""
        return path.end_time * self.quantile(torch.rand(n, generator=rng, dtype=torch.float64))


def check_times(law: TimeLaw, path: Path) -> None:
    """Raises `UserError` where a law does not draw as `draw` says: told before anything runs."""
    n, of = 64, f"time law '{law.name}'"
    with blamed(of, "has no quantile: implement quantile(u), or draw(n, rng, path)"), only_given_generators(of):
        t = law.draw(n, generator("times", "check", 0), path)
    if not isinstance(t, Tensor) or t.shape != (n,):
        got = f"the shape {tuple(t.shape)}" if isinstance(t, Tensor) else type(t).__name__
        raise UserError(f"{of} gives {got} where {n} times are asked for: it must be a tensor of ({n},)")
    if wrong := [x for x in t.tolist() if not -1e-6 <= x <= path.end_time + 1e-6]:
        raise UserError(f"{of} gives t = {wrong[0]:g}: times lie between 0 and {path.end_time:g}")


class Uniform(TimeLaw):
    """t ~ U(0, 1) (Liu 2022; Lipman 2023)."""

    name = "uniform"

    def quantile(self, u: Tensor) -> Tensor:
        return u


class LogitNormal(TimeLaw):
    """t = sigmoid(m + s z), z standard normal (Esser 2024, eq. 19). m > 0 moves it to the data; their t runs to the noise."""

    name = "logit-normal"
    m: float = 0.0
    s: PositiveFloat = 1.0

    def quantile(self, u: Tensor) -> Tensor:
        return torch.sigmoid(self.m + self.s * torch.special.ndtri(u))


class Mode(TimeLaw):
    """t = u + s(cos²(πu/2) − 1 + u), u uniform: most mass in the middle for s > 0, at the ends for s < 0 (Esser 2024, eq. 20)."""

    name = "mode"
    s: float = Field(1.29, ge=-1, le=2 / (math.pi - 2))  # beyond these t is no increasing function of u

    def quantile(self, u: Tensor) -> Tensor:
        return (u + self.s * (torch.cos(math.pi / 2 * u).square() - 1 + u)).clamp(0, 1)


class UShaped(TimeLaw):
    """Density ∝ e^{aτ} + e^{−aτ}, τ = t − ½: most mass at both ends, for reflow (Lee 2024).

    The paper writes the exponentials of t on [0, 1], which rises to one end only; a U, as its name and code have it, is
    symmetric about ½.
    """

    name = "u-shaped"
    a: PositiveFloat = 4.0

    def quantile(self, u: Tensor) -> Tensor:
        return (0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a).clamp(0, 1)


class Steps(TimeLaw):
    """t uniform on 0, 1/k, …, (k−1)/k: where a student of k Euler steps is asked, and nowhere else (Liu 2022, section 4.2)."""

    name = "steps"
    k: PositiveInt = 1

    def quantile(self, u: Tensor) -> Tensor:
        return (self.k * u).floor().clamp(max=self.k - 1) / self.k


class EDM(TimeLaw):
    """ln(σ/α) ~ N(P_mean, P_std²), turned into t by the path (Karras 2022, Table 1).

    The paper's noise levels are for data of standard deviation 0.5: for other data shift P_mean by its logarithm over 0.5. Levels
    beyond the path's own become its ends.
    """

    name = "edm"
    p_mean: float = -1.2
    p_std: PositiveFloat = 1.2

    def check(self, path: Path) -> None:
        if not path.affine:
            raise UserError(
                f"flow.times = '{self.label()}': path '{path.label()}' is a bridge and has no noise level. "
                "Use another law of times, or an affine path."
            )

    def draw(self, n: int, rng: torch.Generator, path: Path) -> Tensor:
        z = torch.special.ndtri(torch.rand(n, generator=rng, dtype=torch.float64))
        return path.time_at(-(self.p_mean + self.p_std * z)).clamp(max=path.end_time)


TIMES: Registry[TimeLaw] = Registry(
    "time law",
    {
        "uniform": "fmbench.flow.times:Uniform",
        "logit-normal": "fmbench.flow.times:LogitNormal",
        "mode": "fmbench.flow.times:Mode",
        "u-shaped": "fmbench.flow.times:UShaped",
        "edm": "fmbench.flow.times:EDM",
        "steps": "fmbench.flow.times:Steps",
    },
    listing="times",
)
