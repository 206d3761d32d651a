"""What a flow keeps: the data's law at its end, and the books of its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from ..contrasts import Difference, combination
from ..statistics import satterthwaite
from .base import Claim, Contrast, at_most
from .cells import Cell, Cells
from .guards import ALONE, TRAINED, fresh_noise, integration_error

GAP = 0.02  # of two laws, without units: a normal law on the line, shifted by 0.28 of its deviations


@dataclass(frozen=True)
class GapDifference(Difference):
    """A gap between laws (an energy coefficient H, or the difference of two), which scatters the more the larger it is.

    `stderr` is the one that it would have at the margin: see `no_farther`. `growth` is what its square gains with each unit
    of a larger H.
    """

    growth: float = 0.0
    different: bool = True  # whether a test says that the laws differ at all

    def p_above(self, limit: float) -> float:
        return super().p_above(limit) if self.different else 1.0

    def detectable(self, alpha: float, power: float = 0.8) -> float:
        """As of any difference, with the error at the truth that is to be found: x = q √(stderr² + growth x)."""
        q = self.quantiles(alpha, power)
        return (q**2 * self.growth + q * math.sqrt(q**2 * self.growth**2 + 4 * self.stderr**2)) / 2


def no_farther(
    cells: Cells, left: Cell, right: Cell | None, margin: float, about: str, *, different: bool = True,
    also: tuple[Cell, ...] = (),
) -> Contrast:  # fmt: skip
    """H of left ≤ H of right (of equal laws, where there is none) + margin.

    An estimate far below the margin, whose own standard error is small, says less than that: at a true H = m the variance is
    larger than at H = 0 by 4 λ m (1/n + 1/n'), λ the kernel's largest eigenvalue, which is at most 2√2 m s, s the deviation
    between samples of one law (the floor's). Tests, interval and power all take the error at the margin, the least favourable
    truth of either hypothesis.
    """
    estimated = combination([(1, left.rows), *([(-1, right.rows)] if right else [])])
    growth = 2 * math.sqrt(2) * (cells.floor(left) or left).stderr
    parts = [
        (estimated.stderr**2, estimated.freedom),
        (growth * max(margin - max(estimated.value, 0.0), 0.0), math.inf),
    ]
    difference = GapDifference(
        estimated.value, math.sqrt(math.fsum(part for part, _ in parts)), satterthwaite(parts), estimated.by_sample,
        growth=growth, different=different,
    )  # fmt: skip
    return Contrast(about, difference, margin, left, right, also, most=1.0)


class Preserved(Claim):
    """Every flow, reflowed or not, keeps the data's law up to equivalence: the energy coefficient H between its end and held-out
    data is at most the margin, 0.02 if not said otherwise; a two-sample permutation test of equal laws stands beside it.

    The theorem is about exact flows, and with samples enough a two-sample test rejects any trained one, however near. So
    supported means that H is shown to be below the margin, even where the test rejects equal laws; refuted, that H is shown
    to be above it and the test rejects for every seed. The contrast tells the test's largest p-value, `marginal_p_value` has
    it for each flow and seed. Students are no flows.
    """

    name = "marginals-preserved"
    effect = "H between a flow's end and held-out data, 0 for equal laws and at most 1"
    rule = "effect ≤ margin (equivalence); refuted only where a permutation test rejects equal laws for every seed, too"
    source = "Liu et al. 2022, theorem 3.3"
    metrics = ("marginal_gap", "marginal_p_value")
    guards = (fresh_noise, integration_error)
    margin: float = Field(GAP, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for gap in cells.find("marginal_gap"):
            test = cells.required(gap, "marginal_p_value")
            p = max(row["value"] for row in test.rows)
            about = f"H of {gap.flow} from held-out data (equal laws: p ≤ {p:.2g} for every seed)"
            found.append(no_farther(cells, gap, None, self.margin, about, different=p <= self.alpha, also=(test,)))
        return found


class BalanceSheet(Claim):
    """C_train − C_gen = L* + S within the residual's error: |residual| ≤ tolerance + z · stderr, where the tolerance, a share of
    C_train, is what a model's misfit may leave.

    C_train = E‖X1 − X0‖² of the coupling trained on, C_gen that of the flow's own, L* the least flow-matching loss and S
    the straightness; an exact identity for an exact flow on the linear path. A trained one misses it by its misfit, which no
    more samples make smaller: against z · stderr alone the verdict would tell of n. Refuted where the residual is beyond
    tolerance + z · stderr; supported where the whole interval, |residual| + z · stderr, is within the tolerance, so that a wide
    error supports nothing; z is Student's quantile at the corrected level. The reference solve's error is a guard.
    """

    name = "balance-sheet"
    effect = "C_train − L* − A, the residual"
    rule = "|effect| ≤ margin × C_train"
    source = "A = C_gen + S and C_train = L* + A, from Liu et al. 2022, proof of theorem 3.7"
    metrics = ("balance_residual", TRAINED, "transport_cost")
    guards = ALONE
    margin: float = Field(0.05, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for cell in cells.find("balance_residual"):
            trained = cells.required(cell, TRAINED)
            for sign, word in ((1, "above"), (-1, "below")):
                about, limit = f"residual of {cell.flow}, {word}", self.margin * trained.value
                found.append(at_most(about, cell, limit, sign=sign, also=(trained,)))
        return found
