"""What a flow keeps: the data's law at its end, and the books of its cost."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from ..contrasts import Difference, combination
from .base import Claim, Contrast
from .cells import Cells, NotTested
from .guards import TRAINED, integration_error

GAP = 0.01  # of two laws, without units: a normal law on the line, shifted by a fifth of its deviation


@dataclass(frozen=True)
class Permuted(Difference):
    """A difference between laws, which counts as one only where a permutation test rejects that they are equal."""

    rejected: bool = False

    def p_above(self, limit: float) -> float:
        return super().p_above(limit) if self.rejected else 1.0


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
    guards = (integration_error,)
    margin: float = Field(GAP, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for gap in cells.find("marginal_gap"):
            test = cells.required(gap, "marginal_p_value")
            estimated = combination([(1, gap.rows)])
            rejected = all(row["value"] <= self.alpha for row in test.rows)
            difference = Permuted(estimated.value, estimated.stderr, estimated.freedom, rejected=rejected)
            p = max(row["value"] for row in test.rows)
            about = f"H of {gap.flow} from held-out data (equal laws: p ≤ {p:.2g} for every seed)"
            found.append(Contrast(about, difference, self.margin, gap, also=(test,)))
        if not found:
            raise NotTested("missing rows", "no marginal_gap of any flow")
        return found


class BalanceSheet(Claim):
    """C_train − C_gen = L* + S: the residual is at most the margin, a share of C_train, in size.

    C_train = E‖X1 − X0‖² of the coupling trained on, C_gen that of the flow's own, L* the least flow-matching loss and S
    the straightness; an exact identity for an exact flow on the linear path.
    """

    name = "balance-sheet"
    source = "A = C_gen + S and C_train = L* + A, from Liu et al. 2022, proof of theorem 3.7"
    metrics = ("balance_residual", TRAINED, "transport_cost")
    guards = (integration_error,)
    margin: float = Field(0.05, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for cell in cells.find("balance_residual"):
            limit = self.margin * cells.required(cell, TRAINED).value
            for sign, word in ((1, "above"), (-1, "below")):
                about = f"residual of {cell.flow}, {word}"
                found.append(Contrast(about, combination([(sign, cell.rows)]), limit, cell))
        return found
