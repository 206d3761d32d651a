"""The standard normal in other units: the noise of a model that sees its data in another range than ours."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from .base import Data
from .law import MixtureLaw


class ScaledNormal(Data):
    """N(mean, std²) on every dimension of tensors of shape `dims`, independent."""

    name = "scaled-normal"
    mean: float = 0.0
    std: PositiveFloat = 1.0
    dims: tuple[PositiveInt, ...] = (2,)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dims

    def near(self, mean: float, std: float) -> bool:
        """Whether it is that normal law, but for rounding."""
        return math.isclose(self.mean, mean, rel_tol=1e-5, abs_tol=1e-9) and math.isclose(self.std, std, rel_tol=1e-5)

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, None]:
        return self.mean + self.std * torch.randn(n, *self.dims, generator=rng), None

    def mixture(self) -> MixtureLaw:
        means = torch.full((1, math.prod(self.dims)), self.mean, dtype=torch.float64)
        return MixtureLaw(means, torch.full_like(means, self.std), torch.ones(1, dtype=torch.float64))

    def log_density(self, x: Tensor) -> Tensor:
        z = (x.double().flatten(1) - self.mean) / self.std
        return -0.5 * z.square().sum(1) - z.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(self.std))
