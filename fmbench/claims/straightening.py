"""What rectification does to the paths: they straighten (Liu 2022). For the linear path, on which the theorem stands."""

from __future__ import annotations

from pydantic import Field

from ..contrasts import combination
from .axes import LATER
from .base import Claim, Contrast, at_most, no_more
from .cells import Cells, needed
from .guards import ALONE, GEOMETRY, TRAINED
from .rounds import reflowed, trained_cost

REFLOWED = ({"path": "rectified", "reflow": 0}, {"path": "rectified", "reflow": LATER})


class Straightens(Claim):
    """Every reflow round is straighter than the flow before any reflow."""

    name = "reflow-straightens"
    axes = REFLOWED
    effect = "S of a reflow round − S before any reflow"
    rule = "effect ≤ 0"
    source = "Liu et al. 2022, theorem 3.7 and figure 5"
    metrics = ("straightness",)
    guards = GEOMETRY

    def contrasts(self, cells: Cells) -> list[Contrast]:
        return [no_more(cell, first) for first, *later in reflowed(cells, "straightness") for cell in later]


class StraightnessRate(Claim):
    """After K reflow rounds the straightest of the flows so far has S ≤ E‖X1 − X0‖² / K, X the first coupling."""

    name = "straightness-rate"
    axes = REFLOWED
    effect = "the least S of rounds 0 to K − cost of the first coupling / K"
    rule = "effect ≤ 0"
    source = "Liu et al. 2022, theorem 3.7"
    metrics = ("straightness", TRAINED)
    guards = ALONE

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for chain in reflowed(cells, "straightness"):
            first = trained_cost(cells, chain[0], "transport_cost")
            assert first is not None
            for k in range(1, len(chain)):
                best = min(chain[: k + 1], key=lambda cell: cell.value)
                difference = combination([(1, best.rows), (-1 / k, first.rows)])
                others = tuple(cell for cell in chain[: k + 1] if cell is not best)  # the least of all of them
                found.append(Contrast(f"S of {best.flow} against cost / {k}", difference, 0.0, best, first, others))
        return found


class StraightInOneDimension(Claim):
    """In one dimension a single reflow round is straight: S is at most the margin, a share of the transport cost.

    The first flow's coupling is monotone there, and the lines of a monotone coupling do not cross.
    """

    name = "reflow-1d-straight"
    axes = REFLOWED
    effect = "S of a reflow round of data on the line"
    rule = "effect ≤ margin × transport_cost"
    source = "theorem 3.7 of Liu et al. 2022, sharper on the line: lines of a monotone coupling do not cross"
    metrics = ("straightness",)
    guards = ALONE
    margin: float = Field(0.01, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        lines = [chain for chain in reflowed(cells, "straightness") if cells.dims(chain[0]) == 1]
        needed(lines, "one dimension", "no reflowed data set that the manifest says to have one dimension")
        found = []
        for cell in (cell for chain in lines for cell in chain[1:]):
            limit = self.margin * cells.required(cell, "transport_cost").value
            found.append(at_most(f"S of {cell.flow}", cell, limit))
        return found
