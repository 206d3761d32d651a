"""Adaptive solvers, by torchdiffeq. One error norm over the whole batch: nfe and accuracy depend on the batch."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torchdiffeq import odeint

from ..errors import Diverged
from ..flow.velocity import Velocity
from .base import Solution, Solver


class Dopri5(Solver):
    """Dormand and Prince's pair of orders 5 and 4; `max_nfe` calls are the most it may spend."""

    name = "dopri5"
    order = 5
    adaptive = True
    calls_per_step = 6  # the seventh stage is the next step's first
    source = "Dormand & Prince 1980; torchdiffeq"
    rtol: float = Field(1e-5, gt=0)
    atol: float = Field(1e-5, gt=0)
    max_nfe: int = Field(10_000, gt=0)

    def integrate(self, velocity: Velocity, x: Tensor, times: Tensor) -> Solution:
        start, end = times[0], times[-1]
        field = _TimeToGo(velocity, start, end)
        span = torch.stack([end - start, torch.zeros_like(end)])
        limit, velocity.max_nfe = velocity.max_nfe, min(velocity.max_nfe, velocity.nfe + self.max_nfe)
        try:
            # step_t: the last step ends at the end. Left alone, torchdiffeq steps past it, where no path is defined.
            options = {"step_t": span[-1:]}
            path = odeint(field, x, span, rtol=self.rtol, atol=self.atol, method="dopri5", options=options)
        except AssertionError as error:  # torchdiffeq's word for a step size that fell to zero
            raise Diverged(f"dopri5 gave up: {error}") from None
        finally:
            velocity.max_nfe = limit
        return Solution(path[-1], field.accepted)


class _TimeToGo:
    """The field in r = end − t, with torchdiffeq's callback that counts accepted steps.

    torchdiffeq rounds time to the state's float32, which near t = 1 knows no times closer than 6e-8; r has no such
    limit. Its guess of a first step looks as far ahead as ‖x‖ / ‖v‖ allows, past the end too: time is held to its span.
    """

    def __init__(self, velocity: Velocity, start: Tensor, end: Tensor):
        self.velocity, self.end = velocity, end
        self.low, self.high = torch.minimum(start, end), torch.maximum(start, end)
        self.accepted = 0

    def __call__(self, r: Tensor, x: Tensor) -> Tensor:
        return -self.velocity((self.end - r).clamp(self.low, self.high), x)

    def callback_accept_step(self, *_: Any) -> None:
        self.accepted += 1
