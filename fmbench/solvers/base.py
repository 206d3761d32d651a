"""What a solver is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import UserError
from ..flow.guidance import calls
from ..flow.paths import Path
from ..flow.velocity import Velocity
from ..registry import Component


@dataclass(frozen=True)
class Solution:
    """The end state `(B, *shape)` and the work of the integrator, each a mean over samples where samples differ."""

    x: Tensor
    steps: float  # accepted ones
    rejected: float = 0.0  # steps tried in vain
    startup: float = 0.0  # evaluations that only start the method: a first step size, the first step of a multistep one
    evaluations: Tensor | None = None  # (B,), of each sample, where samples do not make them together


class Solver(Component):
    """Integrates a velocity from the first to the last time of a grid."""

    order: ClassVar[int]
    adaptive: ClassVar[bool] = False
    calls_per_step: ClassVar[int]  # network calls; of adaptive solvers: of one trial step
    extra_calls: ClassVar[int] = 0  # what a whole solve of k steps calls beyond k · calls_per_step; may be negative
    first_same_as_last: ClassVar[bool] = False  # the last stage of a step is the first of the next, called once
    default_grid: ClassVar[str] = "uniform"  # of fixed-step solvers, where the suite names none
    source: ClassVar[str] = ""

    @property
    def depends_on_batch(self) -> bool:
        """Whether one error norm spans the batch, so that a sample's result depends on its batch mates."""
        return self.adaptive

    def check(self, path: Path) -> None:
        """Raises `UserError` where this solver cannot follow such a path: asked before anything is computed."""

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        """From x at times[0] to times[-1].

        Args:
            velocity: called as `velocity(t, x)` with t `()` float64; `velocity.path` is the flow's path, where it has one.
            x: `(B, *shape)`.
            times: `(steps + 1,)` float64, increasing or decreasing; adaptive solvers use its ends alone.
        """
        raise NotImplementedError

    def calls_for(self, steps: int, guidance: float = 1.0) -> int:
        """Network calls of a solve of so many steps."""
        return calls(guidance) * (steps * self.calls_per_step + self.extra_calls)

    def steps_for(self, nfe: int, guidance: float = 1.0) -> int:
        """The number of steps that costs exactly `nfe` network calls, or `UserError`: budgets are met, never rounded."""
        if self.adaptive:
            raise UserError(f"solver '{self.name}' chooses its own calls: give rtol and atol, not nfe")
        each, extra = (calls(guidance) * count for count in (self.calls_per_step, self.extra_calls))
        steps, rest = divmod(nfe - extra, each)
        if rest or steps < 1:
            near = sorted({self.calls_for(max(1, count), guidance) for count in (steps, steps + 1)})
            valid = f"{each} · steps {'+' if extra > 0 else '−'} {abs(extra)}" if extra else f"multiples of {each}"
            under = f" with guidance {guidance:g}" if calls(guidance) > 1 else ""
            raise UserError(
                f"solver '{self.name}' cannot meet nfe = {nfe}{under}: it makes {each} calls a step. "
                f"Valid: {valid}, nearest {' or '.join(map(str, near))}."
            )
        return steps

    def title(self) -> str:
        """The table's name: with the parameters that shape the result and have no column of their own."""
        elsewhere = ("rtol", "atol", "max_nfe")
        plain = {name: info.default for name, info in type(self).model_fields.items() if name in elsewhere}
        return self.model_copy(update=plain).label()
