"""Gaussian bridges x_t = (1 − t) x0 + t x1 + γ_t ε: conditional paths with a width of their own (Tong 2024, TMLR)."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from ..errors import UserError
from .couplings import Coupling
from .paths import Path, Schedule


class ICFM(Path):
    """Straight lines of constant width, γ = σ: the target is the line's x1 − x0 (Tong 2024, I-CFM).

    With coupling `minibatch-ot` it is OT-CFM. Both ends of the flow are blurred by σ, though sampling starts from the source
    itself, as the paper's does.

    Args:
        sigma: 0.1 as in the paper's planar experiments; 0 is `rectified`.
    """

    name = "icfm"
    method = "I-CFM"
    affine = False
    sigma: float = Field(0.1, gt=0)

    def schedule(self, t: Tensor) -> Schedule:
        one = torch.ones_like(t)
        return Schedule(t, 1 - t, one, -one, self.sigma * one, 0 * one)


class SBCFM(Path):
    """Brownian bridges, γ = σ√(t(1 − t)): with the entropic coupling, the Schrödinger bridge (Tong 2024, SB-CFM).

    The target u_t = x1 − x0 + γ̇ ε is the literature's (1 − 2t)/(2t(1 − t)) (x_t − (1 − t) x0 − t x1) + x1 − x0. γ̇ diverges at
    both ends, where its expectation given x_t does not: training stays 1e-5 away from them, and integration ends there.

    Args:
        sigma: the bridge's diffusion; 1 as in the papers' planar experiments.
    """

    name = "sb-cfm"
    method = "SB-CFM"
    affine = False
    start_time = 1e-5
    end_time = 1 - 1e-5
    sigma: float = Field(1.0, gt=0)

    def schedule(self, t: Tensor) -> Schedule:
        one = torch.ones_like(t)
        root = (t * (1 - t)).sqrt()
        return Schedule(t, 1 - t, one, -one, self.sigma * root, self.sigma * (1 - 2 * t) / (2 * root))

    def marginal(self, t: Tensor) -> Schedule:
        one = torch.ones_like(t)
        sigma = ((1 - t) * (1 - t + self.sigma**2 * t)).sqrt()
        rate = 0.5 * self.sigma**2 * (1 - 2 * t) - (1 - t)  # σσ̇ + γγ̇, also where γ = 0 and γ̇ = ∞
        return Schedule(t, sigma, one, rate / sigma)

    def check(self, coupling: Coupling) -> None:
        """The target is the bridge's velocity for one coupling alone: the entropic plan of regularisation 2σ²."""
        reg = 2 * self.sigma**2
        if coupling.name != "sinkhorn" or not math.isclose(getattr(coupling, "reg", math.nan), reg, rel_tol=1e-6):
            raise UserError(
                f"path '{self.label()}' with coupling '{coupling.label()}': a Schrödinger bridge needs the entropic coupling "
                f"of regularisation 2σ². Use coupling {{name: sinkhorn, reg: {reg:g}}}, or path 'icfm' with any coupling."
            )
