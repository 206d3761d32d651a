"""What a network may be trained on so that its flow ends in the data, and what it may not."""

from __future__ import annotations

from pydantic import Field

from .base import Claim, Contrast, at_most, no_more
from .cells import Cells, needed
from .guards import arrived, integration_error, same_noise
from .marginals import GAP, no_farther


class GradientIdentity(Claim):
    """Flow matching and conditional flow matching have one gradient: ‖∇L_CFM − ∇L_FM‖² is at most the margin, a share of
    ‖∇L_FM‖².

    In the parameters of a small network drawn at random, on flows whose marginal velocity is known exactly.
    """

    name = "fm-gradient-identity"
    effect = "‖∇L_CFM − ∇L_FM‖² / ‖∇L_FM‖²"
    source = "Lipman et al. 2023, theorem 2"
    metrics = ("gradient_gap",)
    margin: float = Field(1e-3, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = cells.find("gradient_gap")
        return [at_most(f"gradients on {c.flow}", c, self.margin) for c in found]


class HasScore(Claim):
    """The rectified path has a score, and v = x/t + ((1 − t)/t) s transports as well as a velocity that was learned itself: its
    energy coefficient to held-out data is no more than the velocity's, up to the margin.

    For the independent coupling from a normal source; the often repeated opposite holds for other couplings.
    """

    name = "rectified-has-score"
    axes = tuple({"path": "rectified", "prediction": prediction} for prediction in ("score", "velocity"))
    effect = "H of the flow by its score − H of the flow by its velocity"
    source = "Song et al. 2021, eq. 13 (probability-flow ODE) on the path of Liu et al. 2022"
    metrics = ("marginal_gap",)
    guards = (same_noise, arrived, integration_error)
    margin: float = Field(GAP, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        scores = cells.find("marginal_gap", path="rectified", prediction="score")
        pairs = [(cell, other) for cell in scores for other in cells.partners(cell, prediction="velocity")]
        needed(pairs, "missing rows", "no marginal_gap of path = rectified with prediction = score and velocity")
        return [
            no_farther(cells, score, velocity, self.margin, f"H of {score.flow} against {velocity.flow}")
            for score, velocity in pairs
        ]


class WrongTargetFails(Claim):
    """A network trained on (x1 − x0)/t, a target found in tutorials, does not carry the source to the data: the energy
    coefficient between its flow's end and held-out data exceeds that of the target x1 − x0 by the margin at least.

    The same network, trained as long on the same pairs and times; x1 − x0 must itself arrive.
    """

    name = "wrong-target-fails"
    axes = ({"path": "rectified", "prediction": "velocity"}, {"path": "over-time"})
    effect = "H with the target x1 − x0 − H with the target over t"
    rule = "effect ≤ −margin"
    source = "Lipman et al. 2023, eq. 9, and Liu et al. 2022, eq. 1: the target is dx_t/dt = x1 − x0"
    metrics = ("marginal_gap",)
    guards = (same_noise, arrived, integration_error)
    margin: float = Field(0.05, gt=0)

    def contrasts(self, cells: Cells) -> list[Contrast]:
        right = cells.find("marginal_gap", path="rectified", prediction="velocity")
        pairs = [(cell, wrong) for cell in right for wrong in cells.partners(cell, path="over-time")]
        needed(pairs, "missing rows", "no marginal_gap of path = over-time beside path = rectified")
        return [no_more(cell, wrong, -self.margin) for cell, wrong in pairs]
