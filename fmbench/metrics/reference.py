"""What the reference solve itself gets wrong: every geometric value stands on it."""

from __future__ import annotations

import math

from ..statistics import Estimate
from .base import Evidence, Metric


class ReferenceError(Metric):
    """√E‖Z1 − Z1 with half the steps‖²: an upper estimate of the reference solve's own error, on a pilot group.

    Over all dimensions together, as costs are. One estimate, so its standard error is unknown (infinite).
    """

    name = "reference_error"
    unit = "data units"
    scope = "flow"
    source = "step halving (Hairer, Nørsett & Wanner 1993, II.4)"

    def measure(self, evidence: Evidence) -> Estimate:
        geometry = evidence.geometry
        return Estimate(geometry.error * math.sqrt(geometry.z1[0].numel()), math.inf, len(geometry.z1))
