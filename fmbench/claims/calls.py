"""Which flows need few network calls."""

from __future__ import annotations

import math
from typing import Any

from ..contrasts import Difference, combination, mean
from ..table import TASK
from .base import Claim, Contrast
from .cells import Cell, Cells, NotTested
from .curves import common_targets, curves, log2_calls
from .guards import integration_error, same_noise

FEWEST = 5  # flows whose ranks can tell: with four, even the perfect order comes by chance once in 24


class FewerCalls(Claim):
    """For the same error a fixed-step solver needs fewer network calls on the FM-OT path than on the diffusion paths VP and VE.

    The error is the least that both flows reach with the solver; calls are interpolated on the log-log curve; the effect
    is log2 of the ratio of calls: −1 is half of them.
    """

    name = "fm-ot-fewer-calls"
    source = "Lipman et al. 2023, figure 7"
    metrics = ("solver_error",)
    guards = (same_noise, integration_error)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        ours = curves(cells, "solver_error", path="fm-ot")
        theirs = curves(cells, "solver_error", path=["vp-linear", "ve"])
        alike = (*TASK, "coupling", "prediction", "times", "model", "reflow", "distilled", "guidance", "solver", "grid")
        found = []
        for a, b in ((a, b) for a in ours for b in theirs if all(a[0][name] == b[0][name] for name in alike)):
            targets = common_targets(a, b)
            if not targets:
                raise NotTested("same z0", f"{a[0].flow} and {b[0].flow} have no seed and sample seed in common")
            difference = combination([(1, log2_calls(a, targets)), (-1, log2_calls(b, targets))])
            about = f"log2 calls of {a[0]['solver']} on {a[0].flow} against {b[0].flow}"
            found.append(Contrast(about, difference, 0.0, a[-1], b[-1], (*a[:-1], *b[:-1])))
        if not found:
            raise NotTested("missing rows", "no solver_error over calls of path = fm-ot beside vp or ve")
        return found


class CallsFollowStraightness(Claim):
    """The straighter a flow, the fewer calls an adaptive solver makes: Kendall's rank correlation over flows is positive.

    The flows are the sample: at least five on one task; the effect is −τ, its error that of τ under independence.
    """

    name = "adaptive-calls-follow-straightness"
    source = "Liu et al. 2022, section 2.2; Kendall 1938"
    metrics = ("nfe", "straightness")

    def contrasts(self, cells: Cells) -> list[Contrast]:
        groups: dict[tuple[Any, ...], list[tuple[Cell, Cell]]] = {}
        for cell in cells.find("nfe"):
            if cell["rtol"] is not None:
                key = tuple(cell[name] for name in (*TASK, "solver", "rtol", "atol"))
                groups.setdefault(key, []).append((cell, cells.required(cell, "straightness")))
        large = [pairs for pairs in groups.values() if len(pairs) >= FEWEST]
        if not large:
            raise NotTested("too few flows", f"fewer than {FEWEST} flows of one task under one adaptive solver")
        from scipy.stats import kendalltau  # a second to import: not before it is needed

        tau = mean(float(kendalltau([n.value for n, _ in g], [s.value for _, s in g]).statistic) for g in large)
        variance = math.fsum(2 * (2 * len(g) + 5) / (9 * len(g) * (len(g) - 1)) for g in large) / len(large) ** 2
        every = tuple(cell for pairs in large for pair in pairs for cell in pair)
        about = f"−τ between calls and straightness over {sum(map(len, large))} flows"
        return [Contrast(about, Difference(-tau, math.sqrt(variance)), 0.0, every[0], also=every[1:])]
