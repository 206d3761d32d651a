"""What a flow keeps: the data's law at its end, and the books of its cost."""

from __future__ import annotations

import math

from pydantic import Field

from ..contrasts import combination
from .base import Claim, Contrast
from .cells import Cells, NotTested
from .guards import TRAINED, integration_error


class Preserved(Claim):
    """Every flow, reflowed or not, keeps the data's law: its W2 to held-out data exceeds that between real samples by at
    most the margin, a share of the displacement √E‖Z1 − Z0‖².

    At each flow's most network calls; distilled students are no flows. What a model misses counts against it: the theorem
    is about exact flows.
    """

    name = "marginals-preserved"
    source = "Liu et al. 2022, theorem 3.3"
    metrics = ("w2", "transport_cost")
    margin: float = Field(0.1, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for cost in cells.find("transport_cost", distilled=0):
            error = cells.finest(cost, "w2")
            floor = cells.floor(error)
            if floor is None:
                raise NotTested("missing rows", f"no w2 between real samples of {cost['data']}")
            difference = combination([(1, error.rows), (-1, floor.rows)])
            about = f"w2 of {error.flow} against real samples"
            found.append(Contrast(about, difference, self.margin * math.sqrt(cost.value), error, also=(floor,)))
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
