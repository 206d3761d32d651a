"""What a flow keeps: the data's law at its end, and the books of its cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import Field

from ..contrasts import Difference, combination
from .base import Claim, Contrast
from .cells import Cell, Cells
from .guards import TRAINED, fresh_noise, integration_error

GAP = 0.02  # of two laws, without units: a normal law on the line, shifted by 0.28 of its deviations


@dataclass(frozen=True)
class GapDifference(Difference):
    """A gap between laws (an energy coefficient H, or the difference of two), which scatters the more the larger it is.

    So an estimate far below the margin, whose own standard error is small, says less than that: at a true H = m the variance
    is larger by 4 λ m (1/n + 1/n'), λ the kernel's largest eigenvalue, which is at most 2√2 m s, s the deviation at equality.
    """

    equality: float = 0.0  # the standard error of H between samples of one law: the floor's
    different: bool = True  # whether a test says that the laws differ at all

    def p_below(self, limit: float) -> float:
        more = 2 * math.sqrt(2) * max(limit, 0.0) * self.equality
        total = math.hypot(self.stderr, math.sqrt(more)) if math.isfinite(more) else math.inf
        freedom = self.freedom * (total / self.stderr) ** 4 if self.stderr > 0 and math.isfinite(total) else math.inf
        return Difference(self.value, total, freedom).p_below(limit)

    def p_above(self, limit: float) -> float:
        return super().p_above(limit) if self.different else 1.0


def no_farther(
    cells: Cells, left: Cell, right: Cell | None, margin: float, about: str, *, different: bool = True,
    also: tuple[Cell, ...] = (),
) -> Contrast:  # fmt: skip
    """H of left ≤ H of right (of equal laws, where there is none) + margin."""
    estimated = combination([(1, left.rows), *([(-1, right.rows)] if right else [])])
    floor = cells.floor(left)
    difference = GapDifference(
        estimated.value, estimated.stderr, estimated.freedom,
        equality=(floor or left).stderr, different=different,
    )  # fmt: skip
    return Contrast(about, difference, margin, left, right, also)


class Preserved(Claim):
    """Every flow, reflowed or not, keeps the data's law: the energy coefficient H between its end and held-out data is at most
    the margin.

    The theorem is about exact flows, and with samples enough a two-sample test rejects any trained one. So what is shown is
    equivalence: supported where H is shown to be below the margin; refuted where it is shown to be above and a permutation
    test of equal laws rejects for every seed. Students are no flows. `marginal_p_value` has the test for each flow and seed.
    """

    name = "marginals-preserved"
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
    """C_train − C_gen = L* + S: the residual is at most the margin, a share of C_train, in size.

    C_train = E‖X1 − X0‖² of the coupling trained on, C_gen that of the flow's own, L* the least flow-matching loss and S
    the straightness; an exact identity for an exact flow on the linear path.
    """

    name = "balance-sheet"
    source = "A = C_gen + S and C_train = L* + A, from Liu et al. 2022, proof of theorem 3.7"
    metrics = ("balance_residual", TRAINED, "transport_cost")
    guards = (fresh_noise, integration_error)
    margin: float = Field(0.05, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for cell in cells.find("balance_residual"):
            limit = self.margin * cells.required(cell, TRAINED).value
            for sign, word in ((1, "above"), (-1, "below")):
                about = f"residual of {cell.flow}, {word}"
                found.append(Contrast(about, combination([(sign, cell.rows)]), limit, cell))
        return found
