"""Convex costs c of a displacement, shared by what a flow spends and by what its training coupling cost."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from ..registry import Component


class Convex(Component):
    """Base of metrics that are E c(x1 − x0) of some coupling. Implement `c`."""

    unit: ClassVar[str]

    def c(self, displacement: Tensor) -> Tensor:
        """The cost `(n,)` of displacements `(n, D)`."""
        raise NotImplementedError


class Square(Convex):
    """c = ‖·‖²."""

    unit = "data units²"

    def c(self, displacement: Tensor) -> Tensor:
        return displacement.square().sum(1)


class L1(Convex):
    """c = ‖·‖₁."""

    unit = "data units"

    def c(self, displacement: Tensor) -> Tensor:
        return displacement.abs().sum(1)


class L2(Convex):
    """c = ‖·‖."""

    unit = "data units"

    def c(self, displacement: Tensor) -> Tensor:
        return displacement.norm(dim=1)


class Power(Convex):
    """c = ‖·‖^p, p ≥ 1."""

    unit = "data units^p"
    p: float = Field(1.5, ge=1)

    def c(self, displacement: Tensor) -> Tensor:
        return displacement.norm(dim=1) ** self.p
