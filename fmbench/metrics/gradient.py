"""Theorem 2 of flow matching as a measurement: conditional and marginal velocity are, as targets, one gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..errors import Skip
from ..randomness import generator
from ..statistics import Estimate, ratio
from . import truth
from .balance import OverPath, required
from .base import Evidence, Exact

PARTS = 64  # of the points, each with a gradient of its own


class GradientGap(OverPath):
    """‖∇L_CFM − ∇L_FM‖² / ‖∇L_FM‖² in the parameters of a small network drawn at random: 0, for both gradients are equal.

    L_CFM = E‖F − u_t‖² has the path's own targets, L_FM = E‖F − v(t, x_t)‖² the exact marginal velocity, on the same points.
    Both squares are unbiased, products of the gradients of different parts of the points: the value may be negative; standard
    error by the delta method over the parts. For flows whose exact velocity is known; no trained model takes part. `width` is
    the hidden layer's.
    """

    name = "gradient_gap"
    version = 2  # the bottom of the ratio counted as known, the parts as infinitely many
    unit = "1"
    source = "Lipman et al. 2023, theorem 2"
    width: PositiveInt = 16
    seed: int = 0

    def measure(self, evidence: Evidence) -> Estimate:
        exact = required(evidence.oracle, "the exact velocity, which is not known for this data, source and coupling")
        chunks = [(p.t, p.x, p.u, exact(p.t, p.x)) for p in self.points(evidence)]
        t, x, u, v = (torch.cat(side).double() for side in zip(*chunks, strict=True))
        x, u, v = (side.flatten(1) for side in (x, u, v))
        count = min(PARTS, len(t) // 2)
        if count < 2:
            raise Skip(f"gradients of two parts of the points are needed, here are {len(t)} points")
        network = drawn(x.shape[1], self.width, self.seed)
        apart, marginal = [], []
        for k in range(count):  # every part sees all times: the points are in their order
            part = slice(k, None, count)
            said = answer(network, x[part], t[part])
            squares = [(said - target[part]).square().sum(1).mean() for target in (u, v)]
            apart.append(gradient(squares[0] - squares[1], network))
            marginal.append(gradient(squares[1], network))
        return replace(of_squares(torch.stack(apart), torch.stack(marginal)), n=len(t))

    def true_value(self, flow: Exact) -> float | None:
        return None if truth.known(flow) is None else 0.0


def drawn(dim: int, width: int, seed: int) -> list[Tensor]:
    """Two layers' weights and biases, far from any velocity, so that ∇L_FM is not small."""
    rng = generator("gradient gap", seed, dim)
    shapes = ((width, dim + 1), (width,), (dim, width), (dim,))
    return [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for shape in shapes]


def answer(network: Sequence[Tensor], x: Tensor, t: Tensor) -> Tensor:
    """F(t, x) `(B, D)` of x `(B, D)` and t `(B,)`."""
    w, a, v, b = network
    return torch.tanh(torch.cat([x, t[:, None]], 1) @ w.T + a) @ v.T + b


def gradient(loss: Tensor, network: Sequence[Tensor]) -> Tensor:
    """In all parameters, `(P,)`."""
    parts = torch.autograd.grad(loss, list(network), retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def of_squares(top: Tensor, bottom: Tensor) -> Estimate:
    """‖E a‖² / ‖E b‖² of K independent parts a and b, `(K, P)` each; infinite error for K < 3: two have one product alone."""
    found = ratio(products(top), products(bottom))
    # A part is in its own row, and once in every other.
    return replace(found, stderr=2 * found.stderr if len(top) > 2 else math.inf)


def products(parts: Tensor) -> Tensor:
    """Of independent `(K, P)` with mean E g: the mean of ⟨g_k, g_l⟩ over l ≠ k, for each k `(K,)`; all estimate ‖E g‖²."""
    inner = parts @ parts.T
    return (inner.sum(1) - inner.diag()) / (len(parts) - 1)
