"""Couplings: which x0 of a minibatch is paired with which x1."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ..registry import Component
from .assignment import assignment


class Coupling(Component):
    """A rule that pairs the two sides of a minibatch."""

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Index tensors `(i, j)` of `(B,)` each: x0[i] goes with x1[j] (and with x1's label j).

        Args:
            x0, x1: `(B, *shape)`, one minibatch.
            rng: for couplings that sample; never the global generator.
        """
        raise NotImplementedError


class Independent(Coupling):
    """Pairs as they were drawn: x0 and x1 independent."""

    name = "independent"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.arange(len(x0), device=x0.device)
        return index, index


class MinibatchOT(Coupling):
    """Exact optimal transport inside the minibatch, squared Euclidean cost, without replacement: the assignment itself.

    (Tong 2024, minibatch OT-CFM; Pooladian 2023, BatchOT.) The plan is a permutation: every sample is used once.

    Args:
        engine: `lapjv` (lapx), `pot` (network simplex), or `auto`, the faster one for the size and dimension. Both are
            exact; they may differ where several assignments are optimal.
        batch: samples in one transport problem; a larger problem than the training batch is cut by the caller.
    """

    name = "minibatch-ot"
    engine: Literal["auto", "pot", "lapjv"] = "auto"
    batch: int | None = Field(None, gt=1)

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The optimal pairing, i = 0 … B − 1. Deterministic: draws nothing from rng.

        Raises:
            Diverged: x0 or x1 is not finite. RuntimeError: the engine stopped before the optimum.
        """
        if x0.shape != x1.shape:
            raise ValueError(f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)} must have the same shape")
        j = assignment(x0.detach().flatten(1), x1.detach().flatten(1), self.engine)
        return torch.arange(len(x0), device=x0.device), torch.from_numpy(j).to(x0.device)


def cost(x0: Tensor, x1: Tensor, i: Tensor, j: Tensor) -> float:
    """Transport cost of a pairing: the mean of ‖x1[j] − x0[i]‖² in float64, data units²."""
    difference = x1.flatten(1)[j.to(x1.device)].double() - x0.flatten(1)[i.to(x0.device)].double()
    return difference.square_().sum(1).mean().item()
