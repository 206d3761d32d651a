"""Differences of measured values over seeds and samples, with their uncertainty: the one test of comparisons and claims.

The variance of a difference has two parts, as in `statistics.combine`: what new training seeds would change (the spread
between seeds, over K seeds) and what new samples would change (the mean squared standard error, not divided by K, for
seeds share their samples). Where all terms have the same seeds, the spread is that of the differences seed by seed,
else of each term alone. Few seeds estimate a spread badly, so the statistic is held against Student's t with Welch and
Satterthwaite's degrees of freedom, not against the normal: K − 1 when the seeds dominate, those of the rows' own
standard errors (`freedom`; infinitely many where a row does not say) when the samples do.

Where rows carry their values sample by sample (`per_sample`), the samples' part is that of the differences sample by
sample, averaged over seeds: on common random numbers far less than that of the two sides added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from .grouping import grouped
from .statistics import satterthwaite, within
from .table import freedom_of

Row = Mapping[str, Any]  # of the table, as `table.records` gives it


@dataclass(frozen=True)
class Difference:
    """An estimated difference, its standard error and the degrees of freedom behind it."""

    value: float
    stderr: float
    freedom: float = math.inf
    by_sample: bool = False  # the samples' part comes from differences sample by sample
    step: float = 0.0  # half the distance between neighbouring values of a discrete one: its continuity correction

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference; an exact difference (no error at all) is certain."""
        return min(1.0, 2 * min(self.p_below(0.0), self.p_above(0.0)))

    def p_below(self, limit: float) -> float:
        """How surprising the estimate is if the truth is at or above `limit`: small when it lies clearly below."""
        return self._tail(self.value - limit)

    def p_above(self, limit: float) -> float:
        """How surprising the estimate is if the truth is at or below `limit`: small when it lies clearly above."""
        return self._tail(limit - self.value)

    def _tail(self, distance: float) -> float:
        distance += self.step
        if self.stderr == 0:
            return 0.0 if distance < 0 else 1.0
        return float(stdtr(self.freedom, distance / self.stderr))

    def interval(self, level: float) -> tuple[float, float]:
        """Student's two-sided interval; the whole line where the standard error is infinite or undefined."""
        if not math.isfinite(self.stderr):
            return -math.inf, math.inf
        half = self.step + (self.stderr * self.quantile(0.5 + level / 2) if self.stderr else 0.0)
        return self.value - half, self.value + half

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """The smallest true difference from a limit that a test at `alpha`, two-sided, would find with this power."""
        return self.step + (self.stderr * self.quantiles(alpha, power) if self.stderr else 0.0)

    def quantiles(self, alpha: float, power: float) -> float:
        """The standard errors between a limit and a truth that a test at `alpha`, two-sided, finds with this power."""
        return self.quantile(1 - alpha / 2) + self.quantile(power)

    def quantile(self, level: float) -> float:
        """Of Student's t with these degrees of freedom."""
        return float(stdtrit(min(self.freedom, 1e9), level))


def combination(terms: Sequence[tuple[float, Sequence[Row]]]) -> Difference:
    """Σ w · (mean over seeds) of terms (w, rows); rows need `seed`, `sample_seed`, `value`, `stderr`, `freedom`.

    They may have `per_sample`, an array `(n,)` whose mean is the value, on the same samples in all rows.
    Rows are paired where seeds and sample seeds are the same in all terms; a term without a training seed (a property
    of the data alone) goes with every seed. The samples' parts are added as if independent: on the same samples that
    is too careful for a difference of alike values, and would be too bold for a sum of them.
    """
    sides = [(weight, by_seed(rows)) for weight, rows in terms]
    seeded = [(weight, side) for weight, side in sides if set(side) != {None}]
    value = math.fsum(weight * mean(map(mean_value, side.values())) for weight, side in sides)
    paired = (
        len({frozenset((seed, row["sample_seed"]) for seed, rows in s.items() for row in rows) for _, s in seeded}) <= 1
    )
    seeds = list(seeded[0][1]) if seeded else []
    if paired:
        groups = [[math.fsum(weight * mean_value(side[seed]) for weight, side in seeded) for seed in seeds]]
    else:
        groups = [[weight * mean_value(rows) for rows in side.values()] for weight, side in seeded]
    spreads = [(_variance(group) / len(group), len(group) - 1) for group in groups if len(group) > 1]
    alike = [(weight, side) for weight, side in seeded if _per_sample(side)] if paired else []
    by_sample = len(alike) > 1 and len({len(_per_sample(side)[0]) for _, side in alike}) == 1
    rest = [(weight, side) for weight, side in seeded if not (by_sample and _per_sample(side))]
    samples = [_paired_variance(alike)] if by_sample else []
    samples += [_sample_variance(weight, side) for weight, side in rest]
    if not all(math.isfinite(variance) for variance, _ in samples) and paired and len(seeds) >= 3:
        samples = []  # seeds alone: given the same samples, the seeds' differences are exchangeable when nothing changed
    samples += [_sample_variance(weight, side) for weight, side in sides if set(side) == {None}]
    parts = [*spreads, *samples]
    variance = math.fsum(part for part, _ in parts)
    return Difference(value, math.sqrt(variance), satterthwaite(parts), by_sample)


def by_seed(rows: Iterable[Row]) -> dict[Any, list[Row]]:
    return grouped(rows, lambda row: row["seed"])


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else math.nan


def mean_value(rows: Sequence[Row]) -> float:
    return mean(math.nan if row["value"] is None else row["value"] for row in rows)


def _sample_variance(weight: float, side: Mapping[Any, Sequence[Row]]) -> tuple[float, float]:
    """What the samples leave of weight · (mean over seeds), and its degrees of freedom."""
    seeds = [
        within((math.inf if row["stderr"] is None else row["stderr"], freedom_of(row)) for row in rows)
        for rows in side.values()
    ]
    variance, freedom = within((math.sqrt(part), freedom) for part, freedom in seeds)
    return weight**2 * variance, freedom


def _per_sample(side: Mapping[Any, Sequence[Row]]) -> list[Any]:
    """The arrays of a side, one a seed; none where a seed lacks it or was evaluated on several sample seeds."""
    arrays = [rows[0].get("per_sample") for rows in side.values() if len(rows) == 1]
    known = [array for array in arrays if array is not None]
    same = len(known) == len(side) and len({len(array) for array in known}) == 1 and len(known[0]) > 1
    return known if same else []


def _paired_variance(sides: Sequence[tuple[float, Mapping[Any, Sequence[Row]]]]) -> tuple[float, float]:
    """The variance of the mean over samples of Σ w · (mean over seeds), taken sample by sample, and its freedom."""
    differences = sum(weight * np.mean(_per_sample(side), axis=0, dtype=np.float64) for weight, side in sides)
    return float(np.var(differences, ddof=1) / np.size(differences)), np.size(differences) - 1


def _variance(values: Sequence[float]) -> float:
    center = mean(values)
    return math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)
