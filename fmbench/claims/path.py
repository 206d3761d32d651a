"""Which path is straight (Lipman 2023, Liu 2022)."""

from __future__ import annotations

import math

from pydantic import Field

from .base import Contrast, Pairwise
from .cells import Cell, Cells, NotTested, needed
from .guards import GEOMETRY


class _Straighter(Pairwise):
    """Base: `far` keeps data whose flow moves by at least so many source deviations a dimension, √(E‖Z1 − Z0‖²/D)."""

    guards = GEOMETRY
    far: float = Field(0.0, ge=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = [c for c in super().contrasts(cells) if not self.far or _displaced(cells, c.left) >= self.far]
        return needed(found, "far data", f"no flow moves by {self.far:g} source deviations a dimension")


def _displaced(cells: Cells, cell: Cell) -> float:
    dims = cells.dims(cell)
    if dims is None:
        raise NotTested("missing facts", f"the manifest does not say how many dimensions {cell['data']} has")
    return math.sqrt(cells.required(cell, "transport_cost").value / dims)


class StraighterThanVP(_Straighter):
    """The linear path's flow is straighter than the variance-preserving paths'.

    No theorem. For one Gaussian of unit scale in D dimensions S is 0.429 D on the linear path wherever its mean m is,
    0.411 ‖m‖² on `vp-linear`, 0.234 ‖m‖² on `vp-cosine`: false for ‖m‖/√D below 1.02 and 1.36, true beyond. `far` asks of
    distant data alone.
    """

    name = "linear-straighter-than-vp"
    source = "Lipman et al. 2023, section 4.1 and figure 3; Liu et al. 2022, section 2.2"
    metric, at, than = "straightness", {"path": "rectified"}, {"path": ["vp-linear", "vp-cosine"]}


class StraighterThanVE(_Straighter):
    """The linear path's flow is straighter for its transport cost than the variance-exploding path's.

    Each S over its own E‖Z1 − Z0‖², for the sources differ fiftyfold in scale. No theorem: for one Gaussian of unit scale in D
    dimensions it is 0.429 D/‖m‖² on the linear path and 3.42 on `ve`, so false for means with ‖m‖/√D below 0.354. `far` asks of
    distant data alone.
    """

    name = "linear-straighter-than-ve"
    source = "Lipman et al. 2023, section 4.1; Liu et al. 2022, section 2.2"
    metric, at, than = "straightness_normalized", {"path": "rectified"}, {"path": "ve"}
