"""What goes with what over flows: their ranks."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..contrasts import Difference, mean
from ..errors import UserError
from ..table import FLOW, TASK, bare
from .axes import ADAPTIVE
from .base import Claim, Contrast
from .cells import Cell, Cells, needed

FEWEST = 5  # flows whose ranks can tell: with four, even the perfect order comes by chance once in 24


class CallsFollowStraightness(Claim):
    """The straighter a flow, the fewer calls an adaptive solver makes: Kendall's rank correlation over flows is positive.

    The flows are the sample: at least five on one task, each by the geometric mean of its calls over the adaptive solvers and
    tolerances that all of them share, for tolerances repeat the flows and do not add to them. The effect is −τ (ties count
    for neither order), its error that of τ under independence, of one task's τ where several are averaged: their flows have
    paths and couplings in common.
    """

    name = "adaptive-calls-follow-straightness"
    axes = ({"rtol": ADAPTIVE},)
    effect = "−τ between straightness and calls, over flows"
    rule = "effect ≤ 0"
    source = "Liu et al. 2022, section 2.2; Kendall 1938"
    metrics = ("nfe", "straightness")

    def check(self, planned: Sequence[Mapping[str, Any]]) -> None:
        super().check(planned)
        solved = [row for row in planned if bare(row["metric"]) == "nfe" and row.get("rtol") is not None]
        flows = {tuple(row.get(name) for name in (*TASK, *FLOW)) for row in solved}
        most = max(Counter(flow[: len(TASK)] for flow in flows).values())
        if most < FEWEST:
            raise UserError(
                f"claim '{self.label()}' ranks flows, {FEWEST} on one task at least, and the suite plans {most}: "
                "add some to flow, or leave the claim out"
            )

    def contrasts(self, cells: Cells) -> list[Contrast]:
        tasks: dict[tuple[Any, ...], dict[tuple[Any, ...], list[Cell]]] = {}
        for cell in cells.find("nfe"):
            if cell["rtol"] is not None:
                flows = tasks.setdefault(tuple(cell[name] for name in TASK), {})
                flows.setdefault(tuple(cell[name] for name in FLOW), []).append(cell)
        sets = [shared for flows in tasks.values() if len(shared := _shared(list(flows.values()))) >= FEWEST]
        needed(sets, "too few flows", f"fewer than {FEWEST} flows of one task under one adaptive solver")
        straightness = [[cells.required(group[0], "straightness") for group in flows] for flows in sets]
        calls = [[mean(math.log(cell.value) for cell in group) for group in flows] for flows in sets]
        tau = mean(kendall(x, [cell.value for cell in s]) for x, s in zip(calls, straightness, strict=True))
        counts = [len(flows) for flows in sets]
        stderr = math.sqrt(mean(2 * (2 * n + 5) / (9 * n * (n - 1)) for n in counts))
        difference = Difference(-tau, stderr, step=mean(2 / (n * (n - 1)) for n in counts))
        used = [cell for flows in sets for group in flows for cell in group]
        about = f"−τ between calls and straightness over {sum(counts)} flows"
        every = (*used[1:], *(cell for cells_ in straightness for cell in cells_))
        return [Contrast(about, difference, 0.0, used[0], also=every, most=1.0)]


def kendall(x: Sequence[float], y: Sequence[float]) -> float:
    """Kendall's τ: the share of pairs that x and y put in the same order less that in the opposite one."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    return mean(float(np.sign((x[i] - x[j]) * (y[i] - y[j]))) for i, j in pairs)


def _shared(flows: list[list[Cell]]) -> list[list[Cell]]:
    """Of each flow the cells of those samplers that all flows have; none where they have no sampler in common."""
    samplers = set.intersection(*({_sampler(cell) for cell in flow} for flow in flows))
    return [[cell for cell in flow if _sampler(cell) in samplers] for flow in flows] if samplers else []


def _sampler(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("solver", "rtol", "atol", "batch"))
