"""What a training coupling is like: its cost, its bias, its time, and what it does to labels. Nothing is trained.

All values come from fresh minibatches, drawn as training draws them from streams that no training uses. Pairs of one
minibatch depend on each other, minibatches do not: standard errors are over minibatches, infinite where there is one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..data.base import Data
from ..errors import Skip
from ..flow.couplings import Coupling, indices
from ..randomness import generator
from ..statistics import Estimate, mean
from . import truth
from .base import CouplingMetric, Exact, Pairing
from .convex import L1, L2, Convex, Power, Square
from .transport import exact_transport, squared


@dataclass(frozen=True)
class Minibatch:
    """One problem of a coupling, and its answer: x0[i] goes with x1[j], whose label is label[j]."""

    x0: Tensor  # (B, *shape), as drawn
    x1: Tensor  # (B, *shape), as drawn
    label: Tensor | None  # (B,)
    i: Tensor  # (B,)
    j: Tensor  # (B,)

    @classmethod
    def draw(cls, data: Data, source: Data, coupling: Coupling, size: int, seed: int, k: int) -> Minibatch:
        """The k-th problem of `size` samples, a function of its arguments alone."""
        rng = generator("coupled", seed, k)
        x1, label = data.draw(size, rng)
        x0, _ = source.draw(size, rng)
        return cls(x0, x1, label, *indices(coupling, x0, x1, label, rng))

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """x0 and x1 `(B, *shape)`, coupled."""
        return self.x0[self.i], self.x1[self.j]

    def cost(self) -> float:
        """The mean of ‖x1 − x0‖² over the pairs."""
        return squared(*self.pairs).mean().item()


class _OfMinibatches(CouplingMetric):
    """Base of what is seen in freshly paired minibatches: `n` pairs, rounded up to whole problems of the coupling."""

    n: PositiveInt = 8192

    def minibatches(self, pairing: Pairing) -> list[Minibatch]:
        size = problem_size(pairing)
        return [drawn(pairing, k) for k in range(-(-self.n // size))]


def problem_size(pairing: Pairing) -> int:
    """Samples in one problem of the coupling.

    Raises:
        Skip: the pairs are a reflow round's, fixed before training: no minibatch is paired.
    """
    if pairing.fixed:
        raise Skip("a reflow round trains on fixed pairs: no minibatch is paired")
    return pairing.coupling.size(pairing.train_batch)


def drawn(pairing: Pairing, k: int) -> Minibatch:
    """The k-th minibatch of a training coupling, paired."""
    size = problem_size(pairing)
    return Minibatch.draw(pairing.data, pairing.source, pairing.coupling, size, pairing.seed, k)


def over_minibatches(values: Sequence[float], n: int) -> Estimate:
    """The mean of one value a minibatch, n samples in all."""
    return replace(mean(torch.tensor(values, dtype=torch.float64)), n=n)


class _TrainedCost(Convex, CouplingMetric):
    """Base of E c(x1 − x0) of the pairs that training sees; of a reflow round, of its fixed pairs.

    A flow trained on the pairs has E c(Z1 − Z0) of at most this, for every convex c, where it starts at x0: paths that start
    at σ_0 x0 (ve) are longer. Over `n` pairs, rounded up to whole
    minibatches, or all that a reflow round has.
    """

    source = "Liu et al. 2022, theorem 3.5, the coupling before rectification"
    n: PositiveInt = 8192

    def measure(self, evidence: Pairing) -> Estimate:
        if evidence.fixed or evidence.coupling.name == "independent":  # pairs do not depend on each other
            return mean(self.costs(evidence, min(self.n, evidence.fixed or self.n)))
        size = problem_size(evidence)
        n = -(-self.n // size) * size
        return over_minibatches(self.costs(evidence, n).reshape(-1, size).mean(1).tolist(), n)

    def costs(self, pairing: Pairing, n: int) -> Tensor:
        """c of n pairs `(n,)`, float64."""
        x0, x1 = pairing.coupled(n)
        return self.c((x1.double() - x0.double()).flatten(1))


class TrainCouplingCost(Square, _TrainedCost):
    """C_train = E‖x1 − x0‖², between `w2_squared` and `independent_cost`."""

    name = "train_coupling_cost"

    def true_value(self, flow: Exact) -> float | None:
        return truth.train_coupling_cost(flow)


class TrainCouplingCostL1(L1, _TrainedCost):
    """E‖x1 − x0‖₁ of the pairs that training sees."""

    name = "train_coupling_cost_l1"

    def true_value(self, flow: Exact) -> float | None:
        return truth.train_coupling_cost_l1(flow)


class TrainCouplingCostL2(L2, _TrainedCost):
    """E‖x1 − x0‖ of the pairs that training sees."""

    name = "train_coupling_cost_l2"

    def true_value(self, flow: Exact) -> float | None:
        return truth.train_coupling_cost_l2(flow)


class TrainCouplingCostPower(Power, _TrainedCost):
    """E‖x1 − x0‖^p of the pairs that training sees, p ≥ 1."""

    name = "train_coupling_cost_power"


class IndependentCost(_OfMinibatches):
    """E‖x1 − x0‖² before pairing, of the minibatches that `train_coupling_cost` pairs: what independent pairs cost."""

    name = "independent_cost"
    unit = "data units²"
    higher_is_better = None  # a property of source and data, not of the coupling
    source = "the product coupling's cost"

    def measure(self, evidence: Pairing) -> Estimate:
        costs = torch.cat([squared(m.x0, m.x1) for m in self.minibatches(evidence)])
        return mean(costs)  # as drawn all pairs are independent of each other


class DistinctPairs(_OfMinibatches):
    """Distinct x1 used, as a share of the minibatch: 1 for a permutation, 1 − 1/e = 0.632 for uniform redrawing.

    A count without spread (every minibatch alike) has the standard error 0.
    """

    name = "distinct_pairs"
    unit = "1"
    higher_is_better: ClassVar = True
    source = "pairs drawn from a plan with replacement repeat (as torchcfm's do, Tong et al. 2024)"

    def measure(self, evidence: Pairing) -> Estimate:
        shares = [len(m.j.unique()) / len(m.x1) for m in self.minibatches(evidence)]
        return over_minibatches(shares, len(shares) * problem_size(evidence))


class CouplingBias(CouplingMetric):
    """Cost of the minibatch plans less the cost of the one optimal plan of the same samples, all minibatches together.

    The full plan is exact, between `n` draws a side (rounded up to whole minibatches), `repeats` times. Its own expected
    cost exceeds W2² by a bias of order n^(−2/D), so this is a lower bound of the excess over the laws' own plan. It knows
    no labels: of `label-ot` it includes what keeping to them costs. Below 0 only for couplings that do not keep the
    marginals, or by chance where x1 is drawn with replacement.

    Standard error: with potentials u, v of the full plan its cost is E u + E v, so the excess is the mean over minibatches
    of (cost − mean u − mean v), with u and v taken as given (del Barrio & Loubes 2019). They are fitted to the same samples: by
    simulation the error is 0.85 of the spread from 8 minibatches a plan on, less with fewer, and its interval holds 0.85 to 0.92.
    """

    name = "coupling_bias"
    unit = "data units²"
    source = "Fatras et al. 2021, minibatch against full transport"
    n: PositiveInt = 2048
    repeats: PositiveInt = 2

    def measure(self, evidence: Pairing) -> Estimate:
        size = problem_size(evidence)
        count = -(-self.n // size)
        if count < 2:
            raise Skip(f"a plan of {count * size} samples is the minibatch's own: raise the metric's n above {size}")
        excess: list[float] = []
        for repeat in range(self.repeats):
            parts = [drawn(evidence, repeat * count + k) for k in range(count)]
            full = exact_transport(torch.cat([m.x0 for m in parts]), torch.cat([m.x1 for m in parts]))
            u, v = (potential.reshape(count, size).mean(1) for potential in (full.u, full.v))
            excess += [m.cost() - (u[k] + v[k]).item() for k, m in enumerate(parts)]
        return over_minibatches(excess, count * size)


class CouplingMilliseconds(CouplingMetric):
    """Milliseconds of pairing for one training batch: a problem's median over fresh draws, times batch over problem.

    Drawing the samples is not counted; a first problem, not counted either, warms up. The standard error of the median
    is McKean & Schrader's (1984), from the order statistics; infinite below five repeats.
    """

    name = "coupling_milliseconds"
    unit = "ms"
    source = "wall clock"
    repeats: PositiveInt = 15

    def measure(self, evidence: Pairing) -> Estimate:
        size = problem_size(evidence)
        seconds = sorted([self.seconds(evidence, size, k) for k in range(self.repeats + 1)][1:])
        estimate, scale = median(seconds), 1e3 * evidence.train_batch / size
        return replace(estimate, value=scale * estimate.value, stderr=scale * estimate.stderr)

    def seconds(self, pairing: Pairing, size: int, k: int) -> float:
        rng = generator("timed", pairing.seed, k)
        x1, label = pairing.data.draw(size, rng)
        x0, _ = pairing.source.draw(size, rng)
        started = time.perf_counter()
        pairing.coupling.pair_labelled(x0, x1, label, rng)
        return time.perf_counter() - started


def median(values: Sequence[float]) -> Estimate:
    """The median of sorted values; stderr = (x_(n−c+1) − x_(c)) / (2 · 1.96), c = (n + 1)/2 − 1.96 √(n/4) rounded down."""
    n = len(values)
    middle = (values[(n - 1) // 2] + values[n // 2]) / 2
    if n < 5:
        return Estimate(middle, math.inf, n)
    c = max(1, math.floor((n + 1) / 2 - 1.96 * math.sqrt(n / 4)))
    return Estimate(middle, (values[n - c] - values[c - 1]) / (2 * 1.96), n, n - 1)


class LabelSkew(_OfMinibatches):
    """The share of x0's variance that its partner's label explains: ω², 0 where the prior given a label is the whole prior.

    A model that is given labels is trained on x0 given the label, and samples from all x0: whatever is above 0 here it
    never learns, or learns wrongly. The share is of the first moments, Σ_k p_k ‖E[x0 | k] − E x0‖² / E‖x0 − E x0‖², less what
    finite classes show by chance: it may be negative. Standard error by the jackknife over minibatches.
    """

    name = "coupling_label_skew"
    unit = "1"
    source = "Cheng & Schwing 2025 (the skewed prior); Hays 1963, ω²"

    def measure(self, evidence: Pairing) -> Estimate:
        minibatches = self.minibatches(evidence)
        n, labels = sum(len(m.i) for m in minibatches), [m.label for m in minibatches if m.label is not None]
        if not labels:
            raise Skip(f"data set '{evidence.data.name}' has no labels")
        classes = torch.cat(labels).unique()
        parts = [_Moments.of(m.x0[m.i].double().flatten(1), m.label[m.j], classes) for m in minibatches]  # type: ignore[index]
        total = sum(parts[1:], start=parts[0])
        if len(parts) < 2:
            return Estimate(total.omega_squared(), math.inf, n)
        without = torch.tensor([(total - part).omega_squared() for part in parts], dtype=torch.float64)
        stderr = math.sqrt((len(parts) - 1) * without.var(correction=0).item())
        return Estimate(total.omega_squared(), stderr, n, len(parts) - 1)


@dataclass(frozen=True)
class _Moments:
    """What a one-way analysis of variance needs of a part of the samples; parts add up."""

    count: Tensor  # (K,)
    sum: Tensor  # (K, D)
    square: float

    @classmethod
    def of(cls, x: Tensor, label: Tensor, classes: Tensor) -> _Moments:
        member = (label[:, None] == classes).double()
        return cls(member.sum(0), member.T @ x, x.square().sum().item())

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(self.count + other.count, self.sum + other.sum, self.square + other.square)

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(self.count - other.count, self.sum - other.sum, self.square - other.square)

    def omega_squared(self) -> float:
        """(SS_between − (K − 1) MS_within) / (SS_total + MS_within) over the K classes that are there; NaN without any spread."""
        there = self.count > 0
        n, k = self.count.sum().item(), int(there.sum())
        grand = self.sum.sum(0).square().sum().item() / n
        between = (self.sum[there].square().sum(1) / self.count[there]).sum().item() - grand
        total = self.square - grand
        if n <= k or total <= 0:
            return math.nan
        within = (total - between) / (n - k)
        return (between - (k - 1) * within) / (total + within)
