"""Claims: statements of the literature as data plus one test each, decided from a table of results."""

from __future__ import annotations

from ..registry import Registry
from .base import Claim, Contrast, Guard, Pairwise
from .cells import Cell, Cells, NotTested

CLAIMS: Registry[Claim] = Registry(
    "claim",
    {
        "comparison": "fmbench.claims.comparison:Comparison",
        "reflow-cost-nonincreasing": "fmbench.claims.reflow:CostNonincreasing",
        "reflow-straightens": "fmbench.claims.straightening:Straightens",
        "straightness-rate": "fmbench.claims.straightening:StraightnessRate",
        "reflow-1d-straight": "fmbench.claims.straightening:StraightInOneDimension",
        "marginals-preserved": "fmbench.claims.marginals:Preserved",
        "balance-sheet": "fmbench.claims.marginals:BalanceSheet",
        "ot-cfm-cheaper": "fmbench.claims.coupling:Cheaper",
        "ot-cfm-straighter": "fmbench.claims.coupling:Straighter",
        "ot-cfm-fewer-calls": "fmbench.claims.coupling:FewerCalls",
        "linear-straighter-than-vp": "fmbench.claims.path:StraighterThanVP",
        "linear-straighter-than-ve": "fmbench.claims.path:StraighterThanVE",
        "fm-ot-fewer-calls": "fmbench.claims.calls:FewerCalls",
        "adaptive-calls-follow-straightness": "fmbench.claims.ranks:CallsFollowStraightness",
        "fm-gradient-identity": "fmbench.claims.targets:GradientIdentity",
        "rectified-has-score": "fmbench.claims.targets:HasScore",
        "wrong-target-fails": "fmbench.claims.targets:WrongTargetFails",
        "few-step-students-match": "fmbench.claims.students:StudentsMatch",
        "predictions-same-ode": "fmbench.claims.training:PredictionsSameODE",
        "logit-normal-helps": "fmbench.claims.training:LogitNormalHelps",
        "solver-orders": "fmbench.claims.solver:Orders",
        "rk4-25-beats-euler-100": "fmbench.claims.solver:RK4BeatsEuler",
        "euler-one-step-exact": "fmbench.claims.euler:OneStepExact",
        "euler-needs-50-steps": "fmbench.claims.euler:EulerNeedsFifty",
    },
    listing="claims",
)

__all__ = ["CLAIMS", "Cell", "Cells", "Claim", "Contrast", "Guard", "NotTested", "Pairwise"]
