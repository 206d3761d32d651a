"""Exact optimal transport between two samples, and results that are computed once for the same tensors."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from ..statistics import Estimate, satterthwaite

ITERATIONS = 10_000_000  # of the network simplex; n = 2,000 needs about a tenth of it


@dataclass(frozen=True)
class Content:
    """A tensor that hashes and compares by its content, so that `lru_cache` recognises it. Made by `content`."""

    digest: bytes
    tensor: Tensor = field(compare=False, repr=False)


def content(x: Tensor) -> Content:
    x = x.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{x.dtype}{tuple(x.shape)}".encode(), digest_size=16)
    digest.update(x.numpy().data)
    return Content(digest.digest(), x)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖² `(n, m)` of x `(n, D)`, y `(m, D)`, never negative; exact to about 1e-15 of the spread²."""
    centre = y.mean(0)
    x, y = x - centre, y - centre
    squares = torch.addmm(x.square().sum(1, keepdim=True) + y.square().sum(1), x, y.T, alpha=-2)
    return squares.clamp_(min=0)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i − b_i‖² `(n,)`, float64, of a, b `(n, *shape)`."""
    return (a.double() - b.double()).flatten(1).square().sum(1)


@dataclass(frozen=True)
class Transport:
    """The optimal value for squared Euclidean cost, with its Kantorovich potentials (u_i + v_j ≤ ‖x_i − y_j‖²)."""

    cost: float
    u: Tensor  # (n,)
    v: Tensor  # (m,)

    @property
    def estimate(self) -> Estimate:
        """With the standard error √(var(u)/n + var(v)/m): the central limit theorem of del Barrio & Loubes (2019, theorem 4.1).

        It speaks of the fluctuation about the EXPECTED empirical cost, which exceeds the population's by a bias of
        order n^(−2/D); and it is degenerate (conservative here) where both laws are equal.
        """
        return of_two(self.cost, self.u, self.v)


def of_two(value: float, u: Tensor, v: Tensor) -> Estimate:
    """A two-sample statistic with influence values u `(n,)` and v `(m,)`: stderr √(var(u)/n + var(v)/m), Welch's freedom."""
    if min(len(u), len(v)) < 2:
        return Estimate(value, math.inf, len(u))
    parts = [(x.var().item() / len(x), len(x) - 1) for x in (u, v)]
    stderr = (u.var() / len(u) + v.var() / len(v)).sqrt().item()
    return Estimate(value, stderr, len(u), satterthwaite(parts))


def exact_transport(x: Tensor, y: Tensor) -> Transport:
    """Optimal transport between uniform weights on x `(n, D)` and y `(m, D)` by POT's network simplex, float64.

    Computed once for the same tensors (the last few are kept).

    Raises:
        ArithmeticError: the solver stopped before the optimum, or the samples are not finite.
    """
    return _exact_transport(content(x.double().flatten(1)), content(y.double().flatten(1)))


@lru_cache(maxsize=16)
def _exact_transport(x: Content, y: Content) -> Transport:
    import ot

    costs = squared_distances(x.tensor, y.tensor)
    if not costs.isfinite().all():
        raise ArithmeticError("optimal transport of samples that are not finite")
    weights = [torch.full((n,), 1 / n, dtype=torch.float64).numpy() for n in costs.shape]
    cost, log = ot.emd2(*weights, costs.numpy(), numItermax=ITERATIONS, log=True)
    if log["warning"] is not None:
        raise ArithmeticError(f"POT stopped before the optimal plan of {tuple(costs.shape)} samples: {log['warning']}")
    return Transport(float(cost), torch.as_tensor(log["u"]), torch.as_tensor(log["v"]))
