"""Theorem 2 of flow matching as a measurement: conditional and marginal velocity are, as targets, one gradient."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from ..errors import Skip
from ..randomness import generator
from ..statistics import Estimate
from . import truth
from .balance import OverPath, required
from .base import Evidence, Exact

PARTS = 64  # of the points, each with a gradient of its own


class GradientGap(OverPath):
    """‖∇L_CFM − ∇L_FM‖² / ‖∇L_FM‖² in the parameters of a small network drawn at random: 0, for both gradients are equal.

    L_CFM = E‖F − u_t‖² has the path's own targets, L_FM = E‖F − v(t, x_t)‖² the exact marginal velocity, on the same points.
    Both squares are unbiased, products of the gradients of different parts of the points: the value may be negative. For flows
    whose exact velocity is known; no trained model takes part. `width` is the hidden layer's.
    """

    name = "gradient_gap"
    unit = "1"
    source = "Lipman et al. 2023, theorem 2"
    width: PositiveInt = 16
    seed: int = 0

    def measure(self, evidence: Evidence) -> Estimate:
        exact = required(evidence.oracle, "the exact velocity, which is not known for this data, source and coupling")
        chunks = [(t, x, u, exact(t, x)) for t, x, u, _ in self.points(evidence)]
        t, *sides = (
            torch.cat(side).double().flatten(1 if side[0].dim() > 1 else 0) for side in zip(*chunks, strict=True)
        )
        x, u, v = sides
        count = min(PARTS, len(t) // 2)
        if count < 2:
            raise Skip(f"gradients of two parts of the points are needed, here are {len(t)} points")
        network = self.network(x.shape[1])
        apart, marginal = [], []
        for k in range(count):  # every part sees all times: the points are in their order
            part = slice(k, None, count)
            said = network(torch.cat([x[part], t[part, None]], 1))
            squares = [(said - target[part]).square().sum(1).mean() for target in (u, v)]
            apart.append(gradient(squares[0] - squares[1], network))
            marginal.append(gradient(squares[1], network))
        gap, size = squared_mean(torch.stack(apart)), squared_mean(torch.stack(marginal))
        return Estimate(gap.value / size.value, gap.stderr / abs(size.value), len(t))

    def true_value(self, flow: Exact) -> float | None:
        return None if truth.known(flow) is None else 0.0

    def network(self, dim: int) -> nn.Module:
        """F(x, t) on `(B, dim + 1)`, drawn far from any velocity, so that ∇L_FM is not small."""
        rng = generator("gradient gap", self.seed, dim)
        layers = nn.Sequential(nn.Linear(dim + 1, self.width), nn.Tanh(), nn.Linear(self.width, dim)).double()
        for parameter in layers.parameters():
            parameter.data = torch.randn(parameter.shape, generator=rng, dtype=torch.float64)
        return layers


def gradient(loss: Tensor, network: nn.Module) -> Tensor:
    """In all parameters, `(P,)`."""
    parts = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def squared_mean(parts: Tensor) -> Estimate:
    """‖E g‖² from independent `(K, P)` with mean E g: the mean of ⟨g_k, g_l⟩ over k ≠ l; standard error by the jackknife."""
    count = len(parts)
    products = parts @ parts.T
    rows = (products.sum(1) - products.diag()) / (count - 1)
    return Estimate(rows.mean().item(), 2 * rows.std().item() / math.sqrt(count), count)
