"""Losses: how far F is from its target, and the weight λ(t) of that at time t."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveFloat
from torch import Tensor

from ..errors import UserError, blamed
from ..randomness import generator
from ..registry import Component, Registry
from .predictions import Parametrisation, convert


class Loss(Component):
    """A distance between what networks say and their targets."""

    def of(self, error: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of each of S networks `(S,)`, a mean over its batch.

        Args:
            error: F − target, `(S, B, *shape)`. weight: λ, `(S, B)`; 1 if not given.
        """
        raise NotImplementedError


class MSE(Loss):
    """E λ‖F − target‖² / D: conditional flow matching for the velocity (Lipman 2023, eq. 9; Liu 2022, eq. 1)."""

    name = "mse"

    def of(self, error: Tensor, weight: Tensor | None = None) -> Tensor:
        squares = error.square()
        return squares.flatten(1).mean(1) if weight is None else (weight * squares.flatten(2).mean(2)).mean(1)


class PseudoHuber(Loss):
    """E λ(√(‖F − target‖² + c²) − c): quadratic for errors below c, linear above (Song & Dhariwal 2024, section 3.3).

    Its minimiser is no conditional mean, so that a flow trained with it is biased where targets scatter by more than c.

    Args:
        c: 0.00054 √D if not given.
    """

    name = "pseudo-huber"
    c: PositiveFloat | None = None

    def of(self, error: Tensor, weight: Tensor | None = None) -> Tensor:
        flat = error.flatten(2)
        c = 0.00054 * math.sqrt(flat.shape[2]) if self.c is None else self.c
        distance = (flat.square().sum(2) + c**2).sqrt() - c
        return (distance if weight is None else weight * distance).mean(1)


class Weight(Component):
    """A weight λ(t) of the loss."""

    def at(self, network: Parametrisation, t: Tensor) -> Tensor | None:
        """λ at times t, of the shape of t; None where it is 1."""
        raise NotImplementedError


class Uniform(Weight):
    """λ = 1: every prediction is regressed in its own units. For the score, learned as σ s, it is the usual λ = σ²."""

    name = "uniform"

    def at(self, network: Parametrisation, t: Tensor) -> None:
        return None


class OfVelocity(Weight):
    """λ = (∂v/∂F)²: each prediction is the same regression, that of the velocity (Lipman 2023, eq. 9; Kingma & Gao 2023)."""

    name = "velocity"

    def at(self, network: Parametrisation, t: Tensor) -> Tensor:
        return network.head(t).c_out ** 2


class MinSNR(Weight):
    """λ = min(α²/σ², γ) on the data's squared error, whatever is predicted (Hang 2023)."""

    name = "min-snr"
    gamma: PositiveFloat = 5.0

    def at(self, network: Parametrisation, t: Tensor) -> Tensor:
        s = network.path.schedule(t)
        snr = (s.alpha / s.sigma).square()
        if network.prediction == "data":
            return snr.clamp(max=self.gamma)
        if network.prediction in ("epsilon", "score"):  # ∂x1/∂F = ∓ σ/α
            return (self.gamma / snr).clamp(max=1)
        zero = torch.zeros_like(t)
        x1_by_v = convert(zero + 1, "velocity", "data", s, zero)  # ∂x1/∂v
        return snr.clamp(max=self.gamma) * (x1_by_v * network.head(t).c_out).square()


def check_loss(loss: Loss, weight: Weight, network: Parametrisation, shape: tuple[int, ...]) -> None:
    """Raises `UserError` where a loss or its weight does not give what `of` and `at` say: told before anything runs."""
    stack, batch, rng = 3, 5, generator("loss", "check", 0)
    t = network.path.end_time * torch.rand(stack, batch, generator=rng)
    error = torch.randn(stack, batch, *shape, generator=rng).requires_grad_()
    with blamed(f"weight '{weight.name}'", "has no at: implement at(network, t)"):
        factor = weight.at(network, t)
    if factor is not None and (found := _shape(factor)) != (stack, batch):
        raise UserError(
            f"weight '{weight.name}': at gives {found} for times of {(stack, batch)}: that shape, or None, is meant"
        )
    if factor is not None and (bad := [w for w in factor.flatten().tolist() if not 0 <= w < math.inf]):
        raise UserError(f"weight '{weight.name}': at gives {bad[0]:g}: a weight is finite and not negative")
    with blamed(f"loss '{loss.name}'", "has no of: implement of(error, weight)"):
        value = loss.of(error, factor)
    if (found := _shape(value)) != (stack,):
        raise UserError(
            f"loss '{loss.name}': of gives {found} for errors of {tuple(error.shape)}: one number a network, {(stack,)}, is meant"
        )
    if not value.requires_grad:
        raise UserError(f"loss '{loss.name}': what of gives has no gradient: use torch's functions on the error itself")


def _shape(given: object) -> tuple[int, ...] | str:
    return tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__


LOSSES: Registry[Loss] = Registry(
    "loss", {"mse": "fmbench.flow.losses:MSE", "pseudo-huber": "fmbench.flow.losses:PseudoHuber"}, listing="losses"
)

WEIGHTS: Registry[Weight] = Registry(
    "weight",
    {
        "uniform": "fmbench.flow.losses:Uniform",
        "velocity": "fmbench.flow.losses:OfVelocity",
        "min-snr": "fmbench.flow.losses:MinSNR",
    },
    listing="weights",
)
