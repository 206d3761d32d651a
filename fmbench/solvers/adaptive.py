"""Adaptive solvers, by torchdiffeq. One error norm over the whole batch: nfe and accuracy depend on the batch.

torchdiffeq calls the network twice to start (a slope, and the trial of a first step size), then `calls_per_step` times a
trial step: its last stage is the next step's first.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..errors import Diverged
from ..flow.velocity import Velocity
from . import per_sample
from .base import Solution, Solver


class Adaptive(Solver):
    """Base of torchdiffeq's pairs; `method` is its name there. `max_nfe` calls are the most that a solve may spend."""

    method: ClassVar[str]
    adaptive = True
    extra_calls = 2
    first_same_as_last = True
    rtol: float = Field(1e-5, gt=0)
    atol: float = Field(1e-5, gt=0)
    max_nfe: int = Field(10_000, gt=0)

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        limit, velocity.max_nfe = velocity.max_nfe, min(velocity.max_nfe, velocity.nfe + self.max_nfe)
        try:
            return self._integrate(velocity, x, times[0], times[-1])
        finally:
            velocity.max_nfe = limit

    def _integrate(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Solution:
        from torchdiffeq import odeint  # brings scipy.integrate, a second in every worker: only where it is used

        field = _TimeToGo(velocity, start, end)
        span = torch.stack([end - start, torch.zeros_like(end)])
        # step_t: the last step ends at the end. Left alone, torchdiffeq steps past it, where no path is defined.
        options = {"step_t": span[-1:]}
        try:
            path = odeint(field, x, span, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as error:  # torchdiffeq's word for a step size that fell to zero
            raise Diverged(f"{self.name} gave up: {error}") from None
        return Solution(path[-1], field.accepted, field.rejected, self.extra_calls)


class Dopri5(Adaptive):
    """Dormand and Prince's pair of orders 5 and 4.

    With `per_sample` every sample keeps its own error, step and time (see `per_sample.py`): its result and its nfe are
    its own, whatever the batch, and `max_nfe` holds for each sample.
    """

    name = "dopri5"
    method = "dopri5"
    order = 5
    calls_per_step = 6
    source = "Dormand & Prince 1980; torchdiffeq"
    unchanged = {"per_sample": False}
    per_sample: bool = False

    @property
    def depends_on_batch(self) -> bool:
        return not self.per_sample

    def _integrate(self, velocity: Velocity, x: Tensor, start: Tensor, end: Tensor) -> Solution:
        if self.per_sample:
            return per_sample.integrate(velocity, x, start, end, self.rtol, self.atol)
        return super()._integrate(velocity, x, start, end)


class Dopri8(Adaptive):
    """Dormand and Prince's pair of orders 8 and 7: dear steps, for tight tolerances."""

    name = "dopri8"
    method = "dopri8"
    order = 8
    calls_per_step = 13
    source = "Prince & Dormand 1981; torchdiffeq"


class Bosh3(Adaptive):
    """Bogacki and Shampine's pair of orders 3 and 2."""

    name = "bosh3"
    method = "bosh3"
    order = 3
    calls_per_step = 3
    source = "Bogacki & Shampine 1989; torchdiffeq"


class AdaptiveHeun(Adaptive):
    """Heun's method with Euler's embedded, as torchdiffeq has it: one call a step.

    Its last stage is the slope at the predicted, not the corrected state, and is used as the next step's first: an error
    of order h² in a slope, so that the global order stays two.
    """

    name = "adaptive-heun"
    method = "adaptive_heun"
    order = 2
    calls_per_step = 1
    source = "Heun 1900; torchdiffeq"


class _TimeToGo:
    """The field in r = end − t, with torchdiffeq's callbacks that count accepted and rejected steps.

    torchdiffeq rounds time to the state's float32, which near t = 1 knows no times closer than 6e-8; r has no such
    limit. Its guess of a first step looks as far ahead as ‖x‖ / ‖v‖ allows, past the end too: time is held to its span.
    """

    def __init__(self, velocity: Velocity, start: Tensor, end: Tensor):
        self.velocity, self.end = velocity, end
        self.low, self.high = torch.minimum(start, end), torch.maximum(start, end)
        self.accepted = self.rejected = 0

    def __call__(self, r: Tensor, x: Tensor) -> Tensor:
        return -self.velocity((self.end - r).clamp(self.low, self.high), x)

    def callback_accept_step(self, *_: Any) -> None:
        self.accepted += 1

    def callback_reject_step(self, *_: Any) -> None:
        self.rejected += 1
