"""Averaged weights: one measure of how far an average looks back."""

from __future__ import annotations

import math


def half_life(decay: float, batch: int) -> int:
    """Samples after which an average that keeps `decay` a step has forgotten half: ln ½ / ln decay steps of `batch`."""
    return round(batch * math.log(0.5) / math.log(decay))
