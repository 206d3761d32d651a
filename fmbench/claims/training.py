"""What a change of training does to the flow that comes out."""

from __future__ import annotations

from pydantic import Field

from ..table import FLOW, TASK
from .axes import Some
from .base import Claim, Contrast, both_ways, pairwise
from .cells import Cells, needed
from .guards import integration_error, marginal_error, same_noise

LOGIT_NORMAL, UNIFORM = {"times": "logit-normal"}, {"times": "uniform"}


class PredictionsSameODE(Claim):
    """Whatever the network predicts (velocity, noise, data, score), the flow is the same: its transport cost and path
    energy agree with the velocity's up to the margin."""

    name = "predictions-same-ode"
    axes = ({"prediction": "velocity"}, {"prediction": Some("another", lambda prediction: prediction != "velocity")})
    effect = "the metric with another prediction − with velocity"
    rule = "|effect| ≤ margin × the metric with velocity"
    source = "Lipman et al. 2024 (guide), section 4.8; Kingma & Gao 2023, appendix B"
    metrics = ("transport_cost", "path_energy")
    guards = (same_noise, marginal_error, integration_error)
    margin: float = Field(0.05, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        return [contrast for metric in self.metrics for contrast in self._of(cells, metric)]

    def _of(self, cells: Cells, metric: str) -> list[Contrast]:
        others = [cell for cell in cells.find(metric) if cell["prediction"] != "velocity"]
        pairs = [(cell, same) for cell in others for same in cells.partners(cell, prediction="velocity")]
        needed(pairs, "missing rows", f"no {metric} of another prediction beside prediction = velocity")
        return [contrast for a, b in pairs for contrast in both_ways(a, b, self.margin * b.value)]


class LogitNormalHelps(Claim):
    """Training times from a logit-normal law give a lower W2 to the data than uniform ones, at the most network calls of
    each solver."""

    name = "logit-normal-helps"
    axes = (LOGIT_NORMAL, UNIFORM)
    effect = "w2 after logit-normal times − after uniform ones"
    rule = "effect ≤ 0"
    source = "Esser et al. 2024, section 3.1 and table 1"
    metrics = ("w2",)
    guards = (same_noise,)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        finest: dict[object, Contrast] = {}
        for contrast in pairwise(cells, "w2", LOGIT_NORMAL, UNIFORM, 0.0):
            key = tuple(contrast.left[name] for name in (*TASK, *FLOW, "solver", "grid", "rtol", "metric"))
            if key not in finest or contrast.left.nfe > finest[key].left.nfe:
                finest[key] = contrast
        return list(finest.values())
