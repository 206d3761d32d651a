"""Velocity fields v(t, x) as solvers call them: every call is counted where the network is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import BudgetExceeded, Diverged

Field = Callable[[Tensor, Tensor], Tensor]


class Velocity:
    """A field with a counter and, if asked, a budget. `nfe` is the number of network calls per sample so far.

    Args:
        field: `(t, x) -> v`, t `()` or `(B,)`, x and v `(B, *shape)`.
        calls_per_evaluation: network calls that one evaluation costs (guidance makes it 2).
        max_nfe: the call that would exceed it raises `BudgetExceeded`.
    """

    def __init__(self, field: Field, *, calls_per_evaluation: int = 1, max_nfe: float = float("inf")):
        self.field = field
        self.calls_per_evaluation = calls_per_evaluation
        self.max_nfe = max_nfe
        self.nfe = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.nfe += self.calls_per_evaluation
        if self.nfe > self.max_nfe:
            raise BudgetExceeded(f"the solver asked for more than max_nfe = {self.max_nfe:g} network calls")
        return self.field(t, x)


def require_finite(x: Tensor, what: str) -> Tensor:
    """x itself, or `Diverged`."""
    if not torch.isfinite(x).all():
        raise Diverged(f"{what} left the finite numbers")
    return x
