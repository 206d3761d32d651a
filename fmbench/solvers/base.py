"""What a solver is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UserError
from ..flow.velocity import Velocity
from ..registry import Component


@dataclass(frozen=True)
class Solution:
    """The end state `(B, *shape)` and the number of (accepted) steps that led to it."""

    x: Tensor
    steps: int


class Solver(Component):
    """Integrates a velocity from the first to the last time of a grid."""

    order: ClassVar[int]
    adaptive: ClassVar[bool] = False
    calls_per_step: ClassVar[int]  # network calls; of adaptive solvers: of one trial step
    source: ClassVar[str]

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        """From x at times[0] to times[-1].

        Args:
            velocity: called as `velocity(t, x)` with t `()` float64.
            x: `(B, *shape)`.
            times: `(steps + 1,)` float64, increasing or decreasing; adaptive solvers use its ends alone.
        """
        raise NotImplementedError

    def steps_for(self, nfe: int) -> int:
        """The number of steps that costs exactly `nfe` calls, or `UserError`: budgets are met, never rounded."""
        if self.adaptive:
            raise UserError(f"solver '{self.name}' chooses its own calls: give rtol and atol, not nfe")
        steps, rest = divmod(nfe, self.calls_per_step)
        if rest or steps < 1:
            near = sorted({max(1, count) * self.calls_per_step for count in (steps, steps + 1)})
            raise UserError(
                f"solver '{self.name}' cannot meet nfe = {nfe}: it makes {self.calls_per_step} calls a step. "
                f"Valid: multiples of {self.calls_per_step}, nearest {' or '.join(map(str, near))}."
            )
        return steps
