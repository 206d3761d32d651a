"""What rectification does to the cost (Liu 2022). For the linear path, on which the theorem stands."""

from __future__ import annotations

from pydantic import Field

from .axes import LATER
from .base import Claim, Contrast, no_more
from .cells import Cells
from .guards import GEOMETRY, TRAINED
from .rounds import reflowed, trained_cost


class CostNonincreasing(Claim):
    """The transport cost E c(Z1 − Z0) of a rectified flow is no more than that of the coupling it was trained on, for
    ‖·‖², ‖·‖, ‖·‖₁ and ‖·‖^1.5, up to the margin.

    Each round against its training coupling and against the round before it, whose law that coupling has. For costs other than
    ‖·‖² a round is held against its training coupling where `train_coupling_cost_l2`, `_l1` and `_power` are measured.
    """

    name = "reflow-cost-nonincreasing"
    axes = ({"path": "rectified", "reflow": LATER},)
    effect = "a round's cost − its training coupling's, and − that of the round before"
    rule = "effect ≤ margin × right side"
    source = "Liu et al. 2022, theorem 3.5"
    metrics = (TRAINED,)
    guards = GEOMETRY
    costs: tuple[str, ...] = ("transport_cost", "transport_cost_l2", "transport_cost_l1", "transport_cost_power")
    margin: float = Field(0.05, ge=0)  # of the right side's cost: what a model's misfit may add

    def needs(self) -> list[str]:
        return list(dict.fromkeys([*self.costs, *super().needs()]))

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for cost in self.costs:
            for chain in reflowed(cells, cost):
                for before, cell in zip([None, *chain], chain, strict=False):
                    trained = trained_cost(cells, cell, cost)
                    found += [no_more(cell, right, self.margin * right.value) for right in (trained, before) if right]
        return found
