"""The mathematics: paths, couplings, velocities, oracles. No input or output."""

from __future__ import annotations

from ..registry import Registry
from .couplings import Coupling
from .paths import Path
from .user_paths import UserPath, path_from

PATHS: Registry[Path] = Registry(
    "path",
    {
        "rectified": "fmbench.flow.paths:Rectified",
        "fm-ot": "fmbench.flow.paths:FMOT",
        "vp-cosine": "fmbench.flow.paths:VPCosine",
        "vp-linear": "fmbench.flow.paths:VPLinear",
        "ve": "fmbench.flow.paths:VE",
        "icfm": "fmbench.flow.bridges:ICFM",
        "sb-cfm": "fmbench.flow.bridges:SBCFM",
        "over-time": "fmbench.flow.unsound:OverTime",
    },
    listing="paths",
)

COUPLINGS: Registry[Coupling] = Registry(
    "coupling",
    {
        "independent": "fmbench.flow.couplings:Independent",
        "minibatch-ot": "fmbench.flow.couplings:MinibatchOT",
        "label-ot": "fmbench.flow.couplings:LabelOT",
        "sinkhorn": "fmbench.flow.couplings:Sinkhorn",
    },
    listing="couplings",
)

__all__ = ["COUPLINGS", "PATHS", "Coupling", "Path", "UserPath", "path_from"]
