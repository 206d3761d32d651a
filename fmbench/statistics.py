"""Estimates with their uncertainty. Undefined uncertainty is infinite, never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

if TYPE_CHECKING:  # tables and claims use this file without tensors
    from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, the number of samples behind it, and the degrees of freedom of the standard error.

    `probe_stderr` is that part of the standard error which random probes (not the data) leave, where there are any: the
    data's part is √(stderr² − probe_stderr²). Infinite where one probe a sample cannot tell it.
    `protocol` says how the value was made where the metric's name does not say it all (features, reference, quantiser).
    """

    value: float
    stderr: float
    n: int
    freedom: float = math.inf
    probe_stderr: float | None = None
    protocol: str | None = None


def mean(x: Tensor) -> Estimate:
    """Plain mean of `(n,)` values; stderr = sd / √n with n − 1 degrees of freedom, infinite for n < 2."""
    x = x.double()
    return Estimate(x.mean().item(), _stderr(x), len(x), _freedom(x))


def ratio(a: Tensor, b: Tensor) -> Estimate:
    """Mean of a over mean of b, `(n,)` each and paired; stderr by the delta method as in `mean`."""
    a, b = a.double(), b.double()
    bottom = b.mean().item()
    if bottom == 0:
        return Estimate(math.nan, math.inf, len(a))
    value = a.mean().item() / bottom
    return Estimate(value, _stderr(a - value * b) / abs(bottom), len(a), _freedom(a))


def root(estimate: Estimate) -> Estimate:
    """Square root; stderr by the delta method, infinite at 0, where the root has no slope."""
    value = math.sqrt(estimate.value)
    return replace(estimate, value=value, stderr=estimate.stderr / (2 * value) if value > 0 else math.inf)


def agresti_coull(successes: float, n: int) -> float:
    """The standard error of a share, that of two successes and two failures more: not 0 where all n are of a kind.

    Source: Agresti & Coull 1998.
    """
    share = (successes + 2) / (n + 4)
    return math.sqrt(share * (1 - share) / (n + 4))


def satterthwaite(parts: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independently estimated variances, each with its own: (Σ s²)² / Σ (s²)²/ν.

    Source: Satterthwaite 1946; for two means, Welch 1947.
    """
    known = list(parts)
    total, doubt = math.fsum(s for s, _ in known), math.fsum(s**2 / freedom for s, freedom in known)
    return total**2 / doubt if doubt > 0 and math.isfinite(total) else math.inf


def added(first: Estimate, *others: tuple[float, Estimate]) -> Estimate:
    """first + Σ w · other of independent estimates, given as (w, other); n is the first one's."""
    terms = [(1.0, first), *others]
    parts = [((w * e.stderr) ** 2, e.freedom) for w, e in terms]
    value = math.fsum(w * e.value for w, e in terms)
    return Estimate(value, math.sqrt(math.fsum(s for s, _ in parts)), first.n, satterthwaite(parts))


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
    of freedom are Welch and Satterthwaite's: K − 1 where the seeds dominate, those of the seeds' own standard errors
    (see `within`) where the samples do: approximately, so that where seeds scatter five times as much as samples, the worst
    case, the 95 % interval holds 0.87 with two seeds, 0.92 with three, 0.94 with five. Probes are common to the seeds, too:
    their part is a mean of squares.
    """
    if not estimates:
        raise ValueError("no estimates to combine")
    count = len(estimates)
    if count == 1:
        return estimates[0]
    value = math.fsum(e.value for e in estimates) / count
    between = math.fsum((e.value - value) ** 2 for e in estimates) / (count - 1) / count
    parts = [(between, count - 1), within((e.stderr, e.freedom) for e in estimates)]
    stderr = math.sqrt(sum(s for s, _ in parts))
    probes = [e.probe_stderr for e in estimates if e.probe_stderr is not None]
    probe_stderr = math.sqrt(sum(s**2 for s in probes) / len(probes)) if len(probes) == count else None
    return Estimate(value, stderr, sum(e.n for e in estimates), satterthwaite(parts), probe_stderr)


def within(errors: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The mean of squared standard errors, each given with its degrees of freedom, and the degrees of that mean.

    Errors on the same samples are wrong together, so that a mean of K of them is no surer than one: with equal ν it is ν.
    """
    known = list(errors)
    variance = sum(stderr**2 for stderr, _ in known) / len(known)
    doubt = sum(stderr**2 / math.sqrt(freedom) for stderr, freedom in known) / len(known)
    return variance, (variance / doubt) ** 2 if doubt > 0 and math.isfinite(variance) else math.inf


MANY = 1000  # degrees of freedom from which Student's t is drawn as the normal law

Statistic = Callable[[NDArray[np.float64]], float]


def bootstrap(
    values: ArrayLike, statistic: Statistic = np.mean, *, seed: int, shared: bool = True, draws: int = 1000
) -> Estimate:
    """A statistic of training seeds × samples, with a standard error for what new seeds AND new samples would change.

    Seeds alone and samples alone are resampled, each as a block, so what was paired stays paired; each variance is
    enlarged by count / (count − 1), for a resample varies that much too little, and their sum is the square of the
    standard error. (The part of the noise that belongs to a seed and a sample together is counted twice: the interval
    errs to the wide side, and little where either is many.) Degrees of freedom as in `combine`, so that `interval`
    covers with three seeds too; percentiles of resampled seeds do not: three values hold the truth 3 times in 4.

    Prefer it to `combine` where the values of single samples are at hand and (a) flows measured on common random
    numbers are compared: noise that they share cancels, which two separate standard errors cannot know; (b) the
    statistic is no plain mean, such as a ratio or a quantile; or (c) the samples' noise differs from seed to seed and
    so does average out, which `combine` must not assume. From one value and one standard error a seed use `combine`.

    Args:
        values: `(…, K, n)`, K seeds and n samples; leading axes hold what is measured on the same samples, such as two
            flows. `(n,)` is one trained flow, whose error is over samples alone.
        statistic: such an array with any K and n, to a number; the grand mean when left out.
        seed: of the resampling.
        shared: sample i is the same for all seeds. If not, the spread between seeds already holds the samples' noise.

    Returns:
        An estimate; its standard error is infinite with fewer than two seeds or samples.

    Source: two-way resampling, Owen 2007, "The pigeonhole bootstrap"; degrees of freedom, Satterthwaite 1946.
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        raise ValueError(f"no values to resample: the shape is {values.shape}")
    rng = np.random.default_rng(seed)
    levels = [(-1, values.shape[-1])] if values.ndim == 1 else [(-2, values.shape[-2]), (-1, values.shape[-1])]
    if not shared:
        levels = levels[:1]
    value = float(statistic(values))
    spreads = [(_spread(values, statistic, axis, draws, rng), count - 1) for axis, count in levels]
    variance = sum(spread for spread, _ in spreads)
    if not math.isfinite(variance):
        return Estimate(value, math.inf, values.shape[-1])
    return Estimate(value, math.sqrt(variance), values.shape[-1], satterthwaite(spreads))


def paired(a: ArrayLike, b: ArrayLike, *, seed: int, draws: int = 1000) -> Estimate:
    """mean(b) − mean(a) by `bootstrap`; a and b `(K, n)` or `(n,)` on the same seeds and samples.

    Raises:
        ValueError: the shapes differ, so that nothing can be paired.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"pairs need equal seeds and samples on both sides: {a.shape} against {b.shape}")
    return bootstrap(b - a, seed=seed, draws=draws)


def redrawn(
    values: ArrayLike, errors: ArrayLike, freedom: ArrayLike = math.inf, *, seed: int, draws: int = 4000
) -> NDArray[np.float64]:
    """Means over seeds as they might have come out: `(draws, B)` from the values and standard errors `(K, B)`.

    Each draw moves all B means together by what other seeds would change (a multivariate t with K − 1 degrees of
    freedom and the covariance that the seeds show; nothing with one seed, whose spread is unknown) and each by itself
    by what other samples would change (t with the errors' own degrees of freedom, `(K, B)` or one number, and the mean
    squared standard error, as in `combine`). Samples common to the B cells make their errors alike; taking them as
    independent errs to the wide side.
    """
    values, errors = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    count, width = values.shape
    rng = np.random.default_rng(seed)
    means = values.mean(axis=0)
    degrees = np.broadcast_to(np.asarray(freedom, dtype=np.float64), errors.shape)
    parts = [within(zip(*cell, strict=True)) for cell in zip(errors.T, degrees.T, strict=True)]
    drawn = means + np.sqrt([part for part, _ in parts]) * rng.standard_normal((draws, width))
    for place, (_, few) in enumerate(parts):
        if few < MANY:
            drawn[:, place] = means[place] + (drawn[:, place] - means[place]) * np.sqrt(few / rng.chisquare(few, draws))
    if count > 1:
        scale = np.sqrt((count - 1) / rng.chisquare(count - 1, (draws, 1)))
        drawn += scale * rng.standard_normal((draws, count)) @ (values - means) / math.sqrt(count * (count - 1))
    return drawn


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: rejecting those ≤ α keeps the familywise error ≤ α (Holm 1979)."""
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1]: {list(p_values)}")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted


def holm_level(others: Sequence[float], alpha: float) -> float:
    """The level at which Holm's procedure tests one more hypothesis beside these p-values: it is rejected up to there."""
    count = len(others) + 1
    rejected = next((k for k, p in enumerate(sorted(others)) if p * (count - k) > alpha), len(others))
    return alpha / (count - rejected)


def _freedom(x: Tensor) -> float:
    return len(x) - 1 if len(x) > 1 else math.inf  # of one value there is no standard error to have any


def _stderr(x: Tensor) -> float:
    return x.std().item() / math.sqrt(len(x)) if len(x) > 1 else math.inf


def _spread(
    values: NDArray[np.float64], statistic: Statistic, axis: int, draws: int, rng: np.random.Generator
) -> float:
    """Variance of the statistic when entries along the axis are drawn again, infinite for fewer than two of them."""
    count = values.shape[axis]
    if count < 2:
        return math.inf
    again = [statistic(np.take(values, rng.integers(count, size=count), axis=axis)) for _ in range(draws)]
    return float(np.var(again, ddof=1)) * count / (count - 1)
