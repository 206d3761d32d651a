"""Estimates with their uncertainty. Undefined uncertainty is infinite, never 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scipy.special import stdtrit

if TYPE_CHECKING:  # tables and claims use this file without tensors
    from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, the number of samples behind it, and the degrees of freedom of the standard error."""

    value: float
    stderr: float
    n: int
    freedom: float = math.inf


def mean(x: Tensor) -> Estimate:
    """Plain mean of `(n,)` values; stderr = sd / √n, infinite for n < 2."""
    x = x.double()
    return Estimate(x.mean().item(), _stderr(x), len(x))


def ratio(a: Tensor, b: Tensor) -> Estimate:
    """Mean of a over mean of b, `(n,)` each and paired; stderr by the delta method, infinite for n < 2."""
    a, b = a.double(), b.double()
    bottom = b.mean().item()
    if bottom == 0:
        return Estimate(math.nan, math.inf, len(a))
    value = a.mean().item() / bottom
    return Estimate(value, _stderr(a - value * b) / abs(bottom), len(a))


def root(estimate: Estimate) -> Estimate:
    """Square root; stderr by the delta method, infinite at 0, where the root has no slope."""
    value = math.sqrt(estimate.value)
    return Estimate(value, estimate.stderr / (2 * value) if value > 0 else math.inf, estimate.n)


def interval(estimate: Estimate, level: float = 0.95) -> tuple[float, float]:
    """Student's two-sided interval `(low, high)`; the whole line where the standard error is infinite or undefined."""
    if not math.isfinite(estimate.stderr):
        return -math.inf, math.inf
    half = float(stdtrit(min(estimate.freedom, 1e9), 0.5 + level / 2)) * estimate.stderr
    return estimate.value - half, estimate.value + half


def combine(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over training seeds, with a standard error for what a new seed AND new samples would change.

    stderr² = (variance between the K seeds' values) / K + (mean of their own stderr²). The second term is not divided
    by K: seeds are evaluated on common random numbers (same z0, same held-out data), so more seeds do not average that
    error away. With one seed the first term is unknown and left out: the error is then over samples alone. The degrees
    of freedom are Welch and Satterthwaite's: K − 1 where the seeds dominate, endless where the samples do.
    """
    if not estimates:
        raise ValueError("no estimates to combine")
    count = len(estimates)
    value = math.fsum(e.value for e in estimates) / count
    between = math.fsum((e.value - value) ** 2 for e in estimates) / (count - 1) / count if count > 1 else 0.0
    within = sum(e.stderr**2 for e in estimates) / count
    freedom = (between + within) ** 2 * (count - 1) / between**2 if between > 0 and math.isfinite(within) else math.inf
    return Estimate(value, math.sqrt(between + within), sum(e.n for e in estimates), freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: rejecting those ≤ α keeps the familywise error ≤ α (Holm 1979)."""
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1]: {list(p_values)}")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def _stderr(x: Tensor) -> float:
    return x.std().item() / math.sqrt(len(x)) if len(x) > 1 else math.inf
