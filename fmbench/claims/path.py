"""Which path is straight (Lipman 2023, Liu 2022)."""

from __future__ import annotations

from .base import Pairwise
from .guards import GEOMETRY


class StraighterThanVP(Pairwise):
    """The linear path's flow is straighter than the variance-preserving paths'.

    No theorem: for Gaussians it is false where the data have about the source's scale, true where their mean is far.
    """

    name = "linear-straighter-than-vp"
    source = "Lipman et al. 2023, section 4.1 and figure 3; Liu et al. 2022, section 2.2"
    metrics = ("straightness",)
    guards = GEOMETRY
    metric, at, than = "straightness", {"path": "rectified"}, {"path": ["vp-linear", "vp-cosine"]}


class StraighterThanVE(Pairwise):
    """The linear path's flow is straighter than the variance-exploding path's."""

    name = "linear-straighter-than-ve"
    source = "Lipman et al. 2023, section 4.1; Liu et al. 2022, section 2.2"
    metrics = ("straightness",)
    guards = GEOMETRY
    metric, at, than = "straightness", {"path": "rectified"}, {"path": "ve"}
