"""Classifier-free guidance: a velocity between, and beyond, what a conditional network says with a label and without."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def calls(guidance: float) -> int:
    """Network calls that one evaluation costs: two; one at s = 1 and s = 0, where one of the velocities has no weight."""
    return 1 if guidance in (0, 1) else 2


def guided(field: Callable[..., Tensor], t: Tensor, x: Tensor, label: Tensor, guidance: float) -> Tensor:
    """v_uncond + s (v_cond − v_uncond): s = 0 knows no label, s = 1 is the conditional velocity, s > 1 goes beyond it.

    (Ho & Salimans 2022, eq. 6, whose w is s − 1, for velocities: Zheng 2023.) For 1 < s it is the velocity of no path of laws
    in general: what the flow carries noise to is not p(x | label)^s, as the score's formula suggests.

    Args:
        field: `(t, x, label) -> v`, without a label the unconditional velocity.
        label: `(B,)`.
    """
    if guidance == 1:
        return field(t, x, label)
    free = field(t, x)
    return free if guidance == 0 else free + guidance * (field(t, x, label) - free)
