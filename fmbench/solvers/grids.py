"""Time grids on which fixed-step solvers walk."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import Component, Registry


class Grid(Component):
    """Where the steps are."""

    def times(self, steps: int, end_time: float) -> Tensor:
        """`(steps + 1,)` float64 from exactly 0 to exactly end_time, strictly increasing."""
        raise NotImplementedError


class UniformGrid(Grid):
    """Equal steps."""

    name = "uniform"

    def times(self, steps: int, end_time: float) -> Tensor:
        return torch.linspace(0, end_time, steps + 1, dtype=torch.float64)


GRIDS: Registry[Grid] = Registry("grid", {"uniform": "fmbench.solvers.grids:UniformGrid"})
