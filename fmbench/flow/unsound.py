"""Targets that are found in tutorials and are no velocity of their path: kept to be trained, measured and seen to fail."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from .paths import Path, Schedule


class OverTime(Path):
    """The rectified path with the wrong target (x1 − x0)/t: no velocity of x_t, so its flow does not end in the data. A warning.

    The displacement made so far is t (x1 − x0); over t it is the velocity x1 − x0 = (x_t − x0)/t. Dividing x1 − x0 itself
    by t divides twice. To be fair to it the divisor is held at `hold` before that time: towards 0 the target diverges.
    """

    name = "over-time"
    method = "RF over t"
    sound = False
    hold: float = Field(0.125, gt=0, lt=1)

    def schedule(self, t: Tensor) -> Schedule:
        rate = 1 / t.clamp(min=self.hold)
        return Schedule(t, 1 - t, rate, -rate)
