"""What the reference solve itself gets wrong: every geometric value stands on it."""

from __future__ import annotations

import math

from ..statistics import Estimate
from .base import Evidence, Metric


class ReferenceError(Metric):
    """√E‖Z1 − Z1 with half the steps‖²: an upper estimate of the reference solve's own error, on a pilot group of n.

    Over all dimensions together, as costs are. One estimate, so its standard error is unknown (infinite).
    """

    name = "reference_error"
    version = 2  # n was once that of all samples
    unit = "data units"
    scope = "flow"
    source = "step halving (Hairer, Nørsett & Wanner 1993, II.4)"

    def measure(self, evidence: Evidence) -> Estimate:
        geometry = evidence.geometry
        seen = len(geometry.z1) if geometry.pilot is None else geometry.pilot
        return Estimate(geometry.error * math.sqrt(geometry.z1[0].numel()), math.inf, seen)
