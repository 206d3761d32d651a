"""What minibatch optimal transport buys against the independent coupling (Tong 2024)."""

from __future__ import annotations

from .axes import ADAPTIVE
from .base import Contrast, Pairwise
from .cells import Cells, needed
from .guards import GEOMETRY, marginal_error, same_noise

OT, INDEPENDENT = {"coupling": "minibatch-ot"}, {"coupling": "independent"}


class Cheaper(Pairwise):
    """A flow trained on minibatch-OT pairs has a lower transport cost than one trained on independent pairs."""

    name = "ot-cfm-cheaper"
    source = "Tong et al. 2024, proposition 3.4 and table 2; Pooladian et al. 2023"
    guards = GEOMETRY
    metric, at, than = "transport_cost", OT, INDEPENDENT


class Straighter(Pairwise):
    """A flow trained on minibatch-OT pairs is straighter than one trained on independent pairs."""

    name = "ot-cfm-straighter"
    source = "Pooladian et al. 2023, theorem 4.2; Tong et al. 2024, figure 1"
    guards = GEOMETRY
    metric, at, than = "straightness", OT, INDEPENDENT


class FewerCalls(Pairwise):
    """At the same tolerance an adaptive solver needs fewer calls of a flow trained on minibatch-OT pairs than of one
    trained on independent pairs."""

    name = "ot-cfm-fewer-calls"
    axes = ({**OT, "rtol": ADAPTIVE}, {**INDEPENDENT, "rtol": ADAPTIVE})
    source = "Tong et al. 2024, figure 3 and section 5"
    guards = (same_noise, marginal_error)
    metric, at, than = "nfe", OT, INDEPENDENT

    def contrasts(self, cells: Cells) -> list[Contrast]:
        found = [contrast for contrast in super().contrasts(cells) if contrast.left["rtol"] is not None]
        return needed(found, "missing rows", "no nfe of an adaptive solver")
