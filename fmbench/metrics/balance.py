"""The balance sheet of a flow: what its training coupling costs, what regression leaves, what the flow spends.

With C_train = E‖x1 − x0‖² of the coupling trained on, L* the least flow-matching loss, A the path energy, C_gen the transport
cost and S the straightness: A = C_gen + S for any flow, C_train = L* + A for the exact flow of a linear path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..errors import Skip
from ..flow.paths import Path
from ..randomness import generator
from ..statistics import Estimate, added, mean
from . import truth
from .base import Evidence, Exact, Field, Metric
from .coupling import over_minibatches, problem_size
from .geometry import identity_residual
from .transport import squared

CHUNK = 4096  # samples in one call of a field


class Point(NamedTuple):
    """Points of a path, and the pairs behind them."""

    t: Tensor  # (B,) float64
    x: Tensor  # (B, *shape) float32: x_t
    u: Tensor  # (B, *shape) float32: u_t
    cost: Tensor  # (B,): ‖x1 − x0‖²
    label: Tensor | None  # (B,), of a conditional flow

    def loss(self, evidence: Evidence) -> Tensor:
        """‖u_t − v(t, x_t)‖² `(B,)`."""
        return squared(evidence.asked(self.t, self.x, self.label), self.u)


class OverPath(Metric):
    """Base of means over t ~ U(0, end_time), one in each of n equal strata, and points x_t of the path.

    The pairs behind x_t are `n` fresh ones of the flow's own coupling, as many as were generated when None, in whole problems of
    a coupling that pairs minibatches. The standard error is over pairs, or over these problems, whose pairs depend on each
    other; it takes the times as independent, which strata make conservative. A conditional flow's velocity is asked with the
    pairs' own labels.
    """

    scope = "flow"
    n: PositiveInt | None = None

    def points(self, evidence: Evidence) -> list[Point]:
        """Points of the path, `CHUNK` at a time."""
        size, n = _together(evidence), self.n or len(evidence.generated)
        n = -(-min(n, evidence.fixed or n) // size) * size
        x0, x1, label = evidence.pairs(n)
        x0, x1 = x0.double(), x1.double()
        rng = generator("over the path", evidence.seed)
        t = evidence.end_time * (torch.arange(n) + torch.rand(n, generator=rng, dtype=torch.float64)) / n
        if size > 1:
            t = t[torch.randperm(n, generator=rng)]  # every problem sees all times
        extra = () if evidence.path.affine else (torch.randn(x0.shape, generator=rng, dtype=torch.float64),)
        x, u = evidence.path.point(x0, x1, t, *extra)
        device = evidence.generated.device
        at, x, u, cost = (a.to(device).split(CHUNK) for a in (t, x.float(), u.float(), squared(x0, x1)))
        given = repeat(None) if label is None else label.to(device).split(CHUNK)
        return list(map(Point, at, x, u, cost, given))

    def over(self, evidence: Evidence, value: Callable[[Point], Tensor]) -> Estimate:
        """The mean of value(points) `(B,)` over all points."""
        with torch.no_grad():
            values = torch.cat([value(points) for points in self.points(evidence)])
        size = _together(evidence)
        return mean(values) if size == 1 else over_minibatches(values.reshape(-1, size).mean(1).tolist(), len(values))


def _together(evidence: Evidence) -> int:
    """How many pairs depend on each other."""
    return 1 if evidence.fixed or evidence.coupling.name == "independent" else problem_size(evidence)


class MinimalLoss(OverPath):
    """E‖u_t − v(t, x_t)‖², the flow-matching loss of the flow's own field on fresh pairs: L*, the least one, if it is exact."""

    name = "minimal_loss"
    unit = "data units²"
    source = "Lipman et al. 2023, eq. 9"

    def measure(self, evidence: Evidence) -> Estimate:
        if evidence.path.start_time > 0:
            raise Skip(f"the target of path '{evidence.path.label()}' has no finite variance near its ends")
        return self.over(evidence, lambda p: p.loss(evidence))

    def true_value(self, flow: Exact) -> float | None:
        return truth.minimal_loss(flow)

    def has_true_value(self, flow: Exact) -> bool:
        return truth.is_solved(flow)


class ModelError(OverPath):
    """∫ E‖v(t, x_t) − v*(t, x_t)‖² dt, the learned field against the exact one on the path's own points."""

    name = "model_error"
    unit = "data units²"
    source = "excess of the flow-matching loss over its minimum (Lipman et al. 2023, theorem 2)"

    def measure(self, evidence: Evidence) -> Estimate:
        exact = required(evidence.oracle, "the exact velocity, which is not known for this data, source and coupling")

        def apart(points: Point) -> Tensor:
            t, x, label = points.t, points.x, points.label
            return evidence.end_time * squared(exact(t, x), evidence.asked(t, x, label))

        return self.over(evidence, apart)

    def true_value(self, flow: Exact) -> float | None:
        return 0.0


class BalanceResidual(OverPath):
    """C_train − L* − A on a linear path: 0 for the exact flow, and what the model's misfit leaves for another.

    C_train and L* share their pairs, so that their difference is taken pair by pair; A comes from the reference solve, whose
    starting points are independent of the pairs.
    """

    name = "balance_residual"
    unit = "data units²"
    higher_is_better = None
    source = "law of total variance along x_t = (1 − t) x0 + t x1"

    def measure(self, evidence: Evidence) -> Estimate:
        if not linear(evidence.path):
            raise Skip(
                f"C_train = L* + A holds for x_t = (1 - t) x0 + t x1 alone, not on path '{evidence.path.label()}'"
            )
        left = self.over(evidence, lambda p: p.cost - p.loss(evidence))
        return added(left, (-1, mean(evidence.geometry.energy)))

    def true_value(self, flow: Exact) -> float | None:
        return 0.0 if linear(flow.path) else None


class IdentityResidual(Metric):
    """A − (2 − T) C_gen − S over [0, T], A − C_gen − S at T = 1: 0 for every flow, and what integration leaves of it.

    Its error joins the spread over samples with the reference solve's own error δ, √(E‖δ‖² / D), which moves C_gen by up to
    2 √C_gen √(E‖δ‖²), and the rounding of float32 sums. It does not hold the quadrature's error in time, which is the value
    itself where that is large: on the stiff `ve` 2e-5 of A, many standard errors.
    """

    name = "identity_residual"
    unit = "data units²"
    higher_is_better = None
    scope = "flow"
    source = "∫ v dt = Z1 − Z0 along every path"

    def measure(self, evidence: Evidence) -> Estimate:
        geometry = evidence.geometry
        residual = identity_residual(geometry, evidence.end_time)
        chord = geometry.displacement
        solve = 2 * math.sqrt(chord.square().sum(1).mean().item() * chord.shape[1]) * geometry.error
        rounding = torch.finfo(torch.float32).eps * geometry.energy.mean().item()
        return added(residual, *((1, Estimate(0.0, error, 0)) for error in (solve, rounding)))

    def true_value(self, flow: Exact) -> float | None:
        return 0.0


def linear(path: Path) -> bool:
    """Whether x_t = (1 − t) x0 + t x1, up to the end."""
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    s = path.schedule(t)
    return path.sound and path.affine and path.end_time == 1 and torch.equal(s.alpha, t) and torch.equal(s.sigma, 1 - t)


def required(field: Field | None, what: str) -> Field:
    if field is None:
        raise Skip(f"this needs {what}")
    return field
