"""Which path needs few network calls for the same error."""

from __future__ import annotations

from ..contrasts import combination
from ..table import TASK
from .base import Claim, Contrast
from .cells import Cells, needed
from .curves import common_targets, curves, log2_calls
from .guards import integration_error, marginal_error, same_noise


class FewerCalls(Claim):
    """For the same error a fixed-step solver needs fewer network calls on the FM-OT path than on the diffusion paths VP and VE.

    The error is the least that both flows reach with the solver; calls are interpolated on the log-log curve; the effect
    is log2 of the ratio of calls: −1 is half of them.
    """

    name = "fm-ot-fewer-calls"
    axes = ({"path": "fm-ot"}, {"path": ["vp-linear", "ve"]})
    effect = "log2 of the calls on FM-OT − log2 of those on VP or VE, for the same error"
    rule = "effect ≤ 0"
    source = "Lipman et al. 2023, figure 7"
    metrics = ("solver_error",)
    guards = (same_noise, marginal_error, integration_error)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        ours = curves(cells, "solver_error", path="fm-ot")
        theirs = curves(cells, "solver_error", path=["vp-linear", "ve"])
        alike = (*TASK, "coupling", "prediction", "times", "model", "reflow", "distilled", "guidance", "solver", "grid")
        found = []
        for a, b in ((a, b) for a in ours for b in theirs if all(a[0][name] == b[0][name] for name in alike)):
            targets = common_targets(a, b)
            needed(targets, "same z0", f"{a[0].flow} and {b[0].flow} have no seed and sample seed in common")
            difference = combination([(1, log2_calls(a, targets)), (-1, log2_calls(b, targets))])
            about = f"log2 calls of {a[0]['solver']} on {a[0].flow} against {b[0].flow}"
            found.append(Contrast(about, difference, 0.0, a[-1], b[-1], (*a[:-1], *b[:-1])))
        return needed(found, "missing rows", "no solver_error over calls of path = fm-ot beside vp or ve")
