"""Time laws: from which distribution on [0, 1] training draws t."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import Component, Registry


class TimeLaw(Component):
    """A distribution of training times."""

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """n times `(n,)`, float64, in [0, 1]."""
        raise NotImplementedError


class Uniform(TimeLaw):
    """t ~ U(0, 1) (Liu 2022; Lipman 2023)."""

    name = "uniform"

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.rand(n, generator=rng, dtype=torch.float64)


TIMES: Registry[TimeLaw] = Registry("time law", {"uniform": "fmbench.flow.times:Uniform"})
