"""What solvers do: their orders, and what these buy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from ..contrasts import Difference, combination
from ..solvers import SOLVERS
from ..table import bare
from .axes import Some
from .base import Claim, Contrast, Pairwise
from .cells import Cell, Cells, needed
from .curves import curves, slope_weights
from .guards import integration_error, same_noise

RESOLVED = 10  # a solver's error is one that the reference solve can see from so many times its own on
FINEST = 3  # budgets at which the order is read


class Orders(Claim):
    """The error of every fixed-step solver falls with at least its declared order, less the margin.

    The slope of log error over log steps at the three largest budgets whose error is ten times the reference solve's, where
    the two slopes between them agree up to the margin: an order is a limit, and shows in no coarser steps.
    """

    name = "solver-orders"
    axes = ({"steps": Some("given", lambda steps: True)},)
    effect = "declared order − slope of log error over log step length"
    source = "Hairer, Nørsett & Wanner 1993, theorem II.3.4"
    metrics = ("solver_error", "reference_error")
    margin: float = Field(0.5, ge=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = []
        for whole in curves(cells, "solver_error"):
            blur = RESOLVED * cells.required(whole[0], "reference_error").value
            seen = [cell for cell in whole if min(row["value"] for row in cell.rows) >= blur][-FINEST:]
            solver = bare(whole[0]["solver"])
            if len(seen) < FINEST or solver not in SOLVERS.names():
                continue
            logs = [cell.mapped(math.log, lambda x: 1 / x) for cell in seen]
            if abs(_slope(logs[1:]).value - _slope(logs[:-1]).value) > self.margin:
                continue
            slope = _slope(logs)
            lacking = replace(slope, value=SOLVERS.get(solver).order + slope.value)
            about = f"order that {solver} lacks on {seen[0].flow}"
            found.append(Contrast(about, lacking, self.margin, seen[-1], also=tuple(seen[:-1])))
        return needed(
            found, "asymptotic regime", "no three budgets that the reference solve can see and whose slopes agree"
        )


def _slope(logs: Sequence[Cell]) -> Difference:
    return combination([(w, cell.rows) for w, cell in zip(slope_weights(logs), logs, strict=True)])


class RK4BeatsEuler(Pairwise):
    """25 steps of RK4 (100 calls) have a smaller error than 100 steps of Euler."""

    name = "rk4-25-beats-euler-100"
    source = "Hairer, Nørsett & Wanner 1993, section II.1"
    guards = (same_noise, integration_error)
    metric, at, than = "solver_error", {"solver": "rk4", "steps": 25}, {"solver": "euler", "steps": 100}
