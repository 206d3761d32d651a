"""Velocity fields v(t, x) as solvers call them: every call is counted where the network is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from ..errors import BudgetExceeded, Diverged
from .guidance import calls, guided
from .paths import Path

Field = Callable[..., Tensor]
"""`(t, x) -> v`, of a conditional flow `(t, x, label) -> v`; t `()` or `(B,)`, x and v `(B, *shape)`, label `(B,)`."""


@dataclass(eq=False)
class Velocity:
    """A field with its counters, the path that it belongs to and, if asked, a budget.

    Counters: `nfe` calls so far (of the sample that was longest under way), `evaluations` and `vjps` the network calls and
    vector-Jacobian products summed over samples: some solvers let finished samples go, so their mean may be below `nfe`.

    Args:
        field: the flow's.
        path: of the flow, for solvers that use its α and σ.
        label: of a conditional flow, `(B,)`: what each sample of the batch shall be.
        guidance: s of v = v_uncond + s (v_cond − v_uncond); an evaluation then costs `guidance.calls(s)` network calls.
        max_nfe: the call that would exceed it raises `BudgetExceeded`.
    """

    field: Field
    _: KW_ONLY
    path: Path | None = None
    label: Tensor | None = None
    guidance: float = 1.0
    max_nfe: float = math.inf

    def __post_init__(self) -> None:
        self.calls_per_evaluation = calls(self.guidance)
        self.nfe = self.evaluations = self.vjps = 0

    def __call__(self, t: Tensor, x: Tensor, index: Tensor | None = None) -> Tensor:
        """v(t, x); `index` `(B',)` says which of the batch's samples x are, where some have left it."""
        self.nfe += self.calls_per_evaluation
        if self.nfe > self.max_nfe:
            raise BudgetExceeded(f"the solver asked for more than max_nfe = {self.max_nfe:g} network calls")
        self.evaluations += self.calls_per_evaluation * x.shape[0]
        if self.label is None:
            return self.field(t, x)
        return guided(self.field, t, x, self.label if index is None else self.label[index], self.guidance)


def count_vjps(field: Field, x: Tensor, products: int = 1) -> None:
    """Notes so many vector-Jacobian products at each sample of x `(B, *shape)`, where the field counts."""
    if isinstance(field, Velocity):
        field.vjps += products * x.shape[0]


def require_finite(x: Tensor, what: str) -> Tensor:
    """x itself, or `Diverged`."""
    if not torch.isfinite(x).all():
        raise Diverged(f"{what} left the finite numbers")
    return x
