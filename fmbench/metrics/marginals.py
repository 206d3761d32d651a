"""Whether a flow ends in its data's law: an effect size that compares across data sets, and a test of exact equality."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..errors import Skip
from ..randomness import generator
from ..statistics import Estimate, agresti_coull
from . import ends
from .base import Exact, TwoSampleMetric
from .distances import kernel_means, minus_distance
from .transport import of_two, squared_distances

AT_ONCE = 2**24  # numbers of a block of permutations
ROUNDING = 1e-5  # of the mean distance: what float32 may put between two cuts into the same groups


class EnergyCoefficient(TwoSampleMetric):
    """Energy distance over 2 E‖x − y‖: 0 for equal laws, 1 for points apart; without units. Unbiased above the line, it may be
    negative. A shift of a normal law on the line by δ deviations has δ²/4 for small δ.

    Standard error by the delta method on the first-order projections (conservative where the laws are equal). Of up to 2,000
    samples a side by default.
    """

    name = "energy_coefficient"
    version = 2  # the standard error had no degrees of freedom once
    unit = "1"
    source = "Rizzo & Székely 2016, the coefficient of inhomogeneity H"
    most: ClassVar = 2000

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        within_x, within_y, to_y, to_x = (-means for means in kernel_means(minus_distance, x, y))
        across = to_y.mean().item()
        if across == 0:  # all samples are one point
            return Estimate(0.0, math.inf, len(x))
        alike = (within_x.mean().item() + within_y.mean().item()) / (2 * across)  # 1 − H
        return of_two(1 - alike, (alike * to_y - within_x) / across, (alike * to_x - within_y) / across)

    def true_value(self, flow: Exact) -> float | None:
        if (means := ends.kernel_means(minus_distance, flow)) is None:
            return None
        within_x, within_y, across = means
        return 1 - (within_x + within_y) / (2 * across)

    def has_true_value(self, flow: Exact) -> bool:
        return ends.are_known(flow)


class MarginalGap(EnergyCoefficient):
    """`energy_coefficient` of the flow itself: the end of its reference solve against held-out data, up to 2,000 by default."""

    name = "marginal_gap"
    scope = "flow"


class MarginalPValue(TwoSampleMetric):
    """The p-value of a permutation test that the flow's end and held-out data have one law; its statistic is the energy distance.

    Uniform where they have, whatever the law, for any n. The standard error is that of the resampling alone (Agresti & Coull
    1998, which is not 0 where p is 1). Of up to 1,000 samples a side by default.
    """

    name = "marginal_p_value"
    version = 2  # one sample a side was 0 / 0 once, and p = 1 had no error
    unit = "1"
    higher_is_better: ClassVar = None  # a test, no distance: with n it falls for any flow that is not exact
    scope = "flow"
    source = "Székely & Rizzo 2004; Phipson & Smyth 2010, eq. 2 (never zero)"
    most: ClassVar = 1000
    permutations: PositiveInt = 999

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        if min(len(x), len(y)) < 2:
            raise Skip(f"two laws are told apart by two samples a side, here are {len(x)} and {len(y)}")
        pooled = torch.cat([x, y])
        distances = squared_distances(pooled, pooled).sqrt_().float().fill_diagonal_(0)
        if not distances.isfinite().all():
            raise Skip("samples that are not finite have no distances to be tested")
        observed = energies(distances, (torch.arange(len(pooled)) < len(x)).float()[None])
        observed -= ROUNDING * distances.mean()
        rng, beyond, left = generator("permutations", len(x), len(y)), 0, self.permutations
        while left > 0:
            count = min(left, max(1, AT_ONCE // len(pooled)))
            order = torch.rand(count, len(pooled), generator=rng).argsort(1)
            beyond += int((energies(distances, (order < len(x)).float()) >= observed).sum())
            left -= count
        beyond, cuts = beyond + 1, self.permutations + 1  # the samples as they are, too
        return Estimate(beyond / cuts, agresti_coull(beyond, cuts), len(x))


def energies(distances: Tensor, first: Tensor) -> Tensor:
    """Energy distances `(B,)` between the two groups into which each row of `first` `(B, N)`, of 0 and 1, cuts N samples."""
    n = first[0].sum()
    m = first.shape[1] - n
    to_all = first @ distances.sum(1)
    inside = (first @ distances * first).sum(1)  # both in the first group
    across, outside = to_all - inside, distances.sum() - 2 * to_all + inside
    return 2 * across / (n * m) - inside / (n * (n - 1)) - outside / (m * (m - 1))
