"""Time grids on which fixed-step solvers walk."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..flow.paths import Path
from ..registry import Component, Registry
from .exponential import require_affine


class Grid(Component):
    """Where the steps are. Implement `times`, or `on` where the path decides."""

    source: ClassVar[str] = ""

    def check(self, path: Path) -> None:
        """Raises `UserError` where this grid means nothing on such a path: asked before anything is computed."""

    def times(self, steps: int, end_time: float) -> Tensor:
        """`(steps + 1,)` float64 from exactly 0 to exactly end_time, strictly increasing."""
        raise NotImplementedError

    def on(self, path: Path, steps: int) -> Tensor:
        """The same for a path: what the stages call."""
        return self.times(steps, path.end_time)


class UniformGrid(Grid):
    """Equal steps."""

    name = "uniform"

    def times(self, steps: int, end_time: float) -> Tensor:
        return torch.linspace(0, end_time, steps + 1, dtype=torch.float64)


class CosineGrid(Grid):
    """t = 1 − cos(πu/2) for equal steps in u: short steps near the noise."""

    name = "cosine"
    source = "Chen 2024 (F5-TTS), eq. 7: sway sampling with s = −1"

    def times(self, steps: int, end_time: float) -> Tensor:
        # 2 sin²(πu/4): 1 − cos loses all digits near 0.
        inner = 2 * torch.sin(math.pi / 4 * torch.linspace(0, 1, steps + 1, dtype=torch.float64)) ** 2
        return _closed(end_time * inner[1:-1], end_time)


class PolynomialRhoGrid(Grid):
    """Karras' steps in the noise level σ/α: equal ones in its ρ-th root, from sigma_max to sigma_min, then to the end.

    The first step starts at t = 0 whatever noise is there, not at sigma_max; a path whose own noise levels lie within
    the two (such as `ve` by default) keeps its own, and needs no last step beyond sigma_min.
    """

    name = "polynomial-rho"
    rho: float = Field(7.0, ge=1)
    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    source = "Karras 2022, eq. 5"

    @model_validator(mode="after")
    def _ordered(self) -> PolynomialRhoGrid:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g} must be below sigma_max = {self.sigma_max:g}")
        return self

    def check(self, path: Path) -> None:
        require_affine(path, f"grid '{self.name}'")

    def on(self, path: Path, steps: int) -> Tensor:
        first, last = (math.exp(-x) for x in _range(path))
        high, low = min(self.sigma_max, first), max(self.sigma_min, last)
        ramp = steps - 1 if last < self.sigma_min else steps
        u = torch.arange(1, steps, dtype=torch.float64) / ramp
        level = (high ** (1 / self.rho) + u * (low ** (1 / self.rho) - high ** (1 / self.rho))) ** self.rho
        return _closed(path.time_at(-level.log()), path.end_time)


class LogSNRGrid(Grid):
    """Equal steps in λ = log(α/σ), half the logarithm of the signal-to-noise ratio.

    λ is held to [−limit, limit] where the path's own range is wider (it is infinite where α = 0 or σ = 0); the first and
    the last step then reach to the path's ends all the same.
    """

    name = "logsnr"
    limit: float = Field(5.0, gt=0)
    source = "Lu 2022a, section 3.3"

    def check(self, path: Path) -> None:
        require_affine(path, f"grid '{self.name}'")

    def on(self, path: Path, steps: int) -> Tensor:
        first, last = (min(max(x, -self.limit), self.limit) for x in _range(path))
        inner = torch.linspace(first, last, steps + 1, dtype=torch.float64)[1:-1]
        return _closed(path.time_at(inner), path.end_time)


def _range(path: Path) -> tuple[float, float]:
    """λ at the path's two ends."""
    first, last = path.half_log_snr(torch.tensor([0.0, path.end_time], dtype=torch.float64)).tolist()
    return first, last


def _closed(inner: Tensor, end_time: float) -> Tensor:
    """The inner times between exactly 0 and exactly end_time."""
    ends = inner.new_tensor([0.0, end_time])
    return torch.cat([ends[:1], inner, ends[1:]])


GRIDS: Registry[Grid] = Registry(
    "grid",
    {
        "uniform": "fmbench.solvers.grids:UniformGrid",
        "cosine": "fmbench.solvers.grids:CosineGrid",
        "polynomial-rho": "fmbench.solvers.grids:PolynomialRhoGrid",
        "logsnr": "fmbench.solvers.grids:LogSNRGrid",
    },
)
