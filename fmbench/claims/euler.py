"""How many steps Euler's method needs."""

from __future__ import annotations

from pydantic import Field

from ..table import bare
from .axes import Some
from .base import Claim, Contrast, at_most, no_more
from .cells import Cell, Cells, needed
from .curves import curves
from .guards import ALONE, same_noise


class OneStepExact(Claim):
    """On a straight flow one Euler step is exact: where S is at most a hundredth of the transport cost, the one-step
    error is at most the margin, a share of it too."""

    name = "euler-one-step-exact"
    effect = "one_step_error of a straight flow"
    rule = "effect ≤ margin × transport_cost"
    source = "Liu et al. 2022, section 2.1 (straight flows)"
    metrics = ("one_step_error", "straightness", "transport_cost")
    guards = ALONE
    margin: float = Field(0.02, gt=0)
    straight: float = Field(0.01, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for cell in cells.find("one_step_error"):
            cost = cells.required(cell, "transport_cost").value
            bent = cells.required(cell, "straightness")
            if bent.value <= self.straight * cost:
                found.append(at_most(f"one-step error of {cell.flow}", cell, self.margin * cost, also=(bent,)))
        return needed(found, "straight flow", f"no flow has S within {self.straight:g} of its transport cost")


class EulerNeedsFifty(Claim):
    """Euler needs about 50 steps: with 50 its W2 is that of an accurate solve up to the margin, with 25 it is not."""

    name = "euler-needs-50-steps"
    axes = (
        {"solver": "euler", "steps": Some("25 or fewer", lambda steps: bool(steps <= 25))},
        {"solver": "euler", "steps": Some("50 or more", lambda steps: bool(steps >= 50))},
        {"solver": Some("another than euler", lambda solver: bare(solver) != "euler")},
    )
    effect = "w2 of Euler − w2 of an accurate solve"
    rule = "effect ≤ margin × w2 of the accurate solve with 50 steps, and beyond it with 25"
    source = "folklore; Esser et al. 2024 evaluate at 50 steps"
    metrics = ("w2",)
    guards = (same_noise,)
    margin: float = Field(0.05, gt=0)  # of the accurate solve's W2

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for curve in curves(cells, "w2", solver="euler"):
            few = [cell for cell in curve if cell["steps"] <= 25]
            many = [cell for cell in curve if cell["steps"] >= 50]
            accurate = _accurate(cells, curve[0])
            if few and many and accurate:
                slack = self.margin * accurate.value
                found += [no_more(many[0], accurate, slack), no_more(accurate, few[-1], -slack)]
        return needed(
            found, "missing rows", "no w2 of euler at 25 steps or fewer and at 50 or more beside another solver's"
        )


def _accurate(cells: Cells, cell: Cell) -> Cell | None:
    """The same metric of the same flow by the solver with most calls that is not Euler."""
    others = [c for c in cells.partners(cell, free={"solver", "grid"}) if bare(c["solver"]) != "euler"]
    return max(others, key=lambda c: c.nfe, default=None)
