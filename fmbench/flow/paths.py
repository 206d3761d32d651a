"""Paths from the source at time 0 to the data at time 1: x_t = α_t x1 + σ_t x0, the affine ones, is what is here.

A path is its schedule: values and derivatives in one record. All else (interpolation, targets, preconditioning) follows.
Bridges, whose points carry noise of their own, are in `bridges`; paths that a user gives by α and σ in `user_paths`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from ..registry import Component
from .couplings import Coupling


@dataclass(frozen=True)
class Schedule:
    """α, σ and their time derivatives at some times; each has the shape of t. γ is a bridge's own noise, else None."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor
    gamma: Tensor | None = None
    d_gamma: Tensor | None = None


@dataclass(frozen=True)
class Preconditioning:
    """v(t, x) = c_skip x + c_out F(c_in x, t): the network F sees inputs and learns targets of unit variance.

    For independent x0, x1 with variances 1 and s², c_skip is the least-squares coefficient of v on x, so the residual's
    variance c_out² = s² (α̇ σ − α σ̇)² / (α² s² + σ²) is the least possible. On `ve` this is Karras 2022, Table 1 (EDM).
    """

    c_in: Tensor
    c_skip: Tensor
    c_out: Tensor


class Path(Component):
    """Base of all paths. Implement `schedule`; set the class constants where the defaults do not hold.

    `time_at` inverts `half_log_snr` by bisection, which asks that α/σ increases; implement it where a closed form exists.
    """

    sound: ClassVar[bool] = (
        True  # the targets are the path's own derivatives: False is a warning, kept to be seen to fail
    )
    affine: ClassVar[bool] = True  # x_t is a function of (x0, x1, t): no noise of its own
    start_time: ClassVar[float] = 0.0  # training draws no earlier time; above 0 where a target diverges at 0
    end_time: ClassVar[float] = 1.0  # training and integration end here; below 1 where σ̇ or γ̇ diverges at 1
    preconditioned: ClassVar[bool] = False  # the plain velocity is too badly scaled to be learned directly
    method: ClassVar[str]  # the literature's name, with independent coupling

    def schedule(self, t: Tensor) -> Schedule:
        """The path at times t of any shape."""
        raise NotImplementedError

    def check(self, coupling: Coupling) -> None:
        """Raises `UserError` where the path's target is no velocity under this coupling."""

    def marginal(self, t: Tensor) -> Schedule:
        """The affine schedule of the same p_t and v(t, x) where x0 is standard normal and independent of x1.

        It is the path's own, but for a bridge: there σ² + γ² takes the place of σ².
        """
        s = self.schedule(t)
        if s.gamma is None or s.d_gamma is None:
            return s
        sigma = (s.sigma**2 + s.gamma**2).sqrt()
        return Schedule(s.alpha, sigma, s.d_alpha, (s.sigma * s.d_sigma + s.gamma * s.d_gamma) / sigma)

    def point(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x_t = α x1 + σ x0 (+ γ ε) and its velocity u_t = α̇ x1 + σ̇ x0 (+ γ̇ ε).

        Args:
            x0, x1: `(B, *shape)`. t: `()` or `(B,)`.
            noise: ε `(B, *shape)`, standard normal; bridges need it, affine paths have no use for it.
        """
        s = self.schedule(column(t, x1))
        x, u = s.alpha * x1 + s.sigma * x0, s.d_alpha * x1 + s.d_sigma * x0
        if s.gamma is None or s.d_gamma is None:
            return x, u
        if noise is None:
            raise ValueError(f"path '{self.name}' is a bridge: its points need their own noise")
        return x + s.gamma * noise, u + s.d_gamma * noise

    def half_log_snr(self, t: Tensor) -> Tensor:
        """λ_t = log(α_t/σ_t), of the shape and dtype of t; −∞ where α = 0, +∞ where σ = 0 (Lu 2022, DPM-Solver).

        Raises:
            UserError: the path is a bridge.
        """
        s = self.schedule(t)
        if s.gamma is not None:
            raise UserError(f"path '{self.label()}' is a bridge and has no signal-to-noise ratio. Use an affine path.")
        return s.alpha.log() - s.sigma.log()

    def time_at(self, half_log_snr: Tensor) -> Tensor:
        """The time t in [0, 1] at which λ_t is `half_log_snr`, of its shape and dtype; 0 or 1 beyond the path's ends."""
        wanted = half_log_snr.detach().double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):  # past the resolution of float64
            middle = 0.5 * (low + high)
            below = self.half_log_snr(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        ends = self.half_log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64, device=wanted.device))
        t = torch.where(wanted <= ends[0], 0.0, torch.where(wanted >= ends[1], 1.0, 0.5 * (low + high)))
        return t.to(half_log_snr.dtype)

    def starts_at_source(self) -> bool:
        """Whether the state at t = 0 is x0 itself: α_0 = 0, σ_0 = 1 and no noise of the path's own."""
        s = self.schedule(torch.zeros((), dtype=torch.float64))
        return s.alpha.item() == 0 and s.sigma.item() == 1 and (s.gamma is None or s.gamma.item() == 0)

    def start(self, x0: Tensor) -> Tensor:
        """The state from which sampling starts: σ_0 x0. The data's part α_0 x1 is dropped (the prior mismatch)."""
        return self.schedule(torch.zeros((), dtype=x0.dtype, device=x0.device)).sigma * x0

    def preconditioning(self, t: Tensor, data_std: float) -> Preconditioning:
        """Coefficients at times t for data of standard deviation `data_std` and a source of unit variance."""
        s = self.schedule(t)
        variance = (s.alpha * data_std) ** 2 + s.sigma**2
        return Preconditioning(
            c_in=variance.rsqrt(),
            c_skip=(s.d_alpha * s.alpha * data_std**2 + s.d_sigma * s.sigma) / variance,
            c_out=(s.d_alpha * s.sigma - s.alpha * s.d_sigma).abs() * data_std * variance.rsqrt(),
        )

    def warp(self, u: Tensor) -> Tensor:
        """Times of a reference grid from uniform u in [0, 1]: crowded where the field varies fastest."""
        return u * self.end_time


class Rectified(Path):
    """Straight lines, α = t, σ = 1 − t (Liu 2022, eq. 1; Lipman 2023 with σ_min = 0)."""

    name = "rectified"
    method = "RF"

    def schedule(self, t: Tensor) -> Schedule:
        one = torch.ones_like(t)
        return Schedule(t, 1 - t, one, -one)

    def time_at(self, half_log_snr: Tensor) -> Tensor:
        return torch.sigmoid(half_log_snr)


class FMOT(Path):
    """The conditional optimal-transport path, α = t, σ = 1 − (1 − σ_min) t (Lipman 2023, eq. 20)."""

    name = "fm-ot"
    method = "FM-OT"
    sigma_min: float = Field(1e-5, ge=0, lt=1)

    def schedule(self, t: Tensor) -> Schedule:
        one = torch.ones_like(t)
        slope = 1 - self.sigma_min
        return Schedule(t, 1 - slope * t, one, -slope * one)

    def time_at(self, half_log_snr: Tensor) -> Tensor:
        return (torch.exp(-half_log_snr) + (1 - self.sigma_min)).reciprocal().clamp(max=1)


class VPCosine(Path):
    """Variance preserving on a quarter circle, α = sin(πt/2), σ = cos(πt/2) (trigonometric interpolant)."""

    name = "vp-cosine"
    version = 2  # σ by the sine of the rest of the way: cos(πt/2) is a rounding error at t = 1, of either sign
    method = "VP-cosine"

    def schedule(self, t: Tensor) -> Schedule:
        w = math.pi / 2
        alpha, sigma = torch.sin(w * t), torch.sin(w * (1 - t))
        return Schedule(alpha, sigma, w * sigma, -w * alpha)

    def time_at(self, half_log_snr: Tensor) -> Tensor:
        return torch.atan(torch.exp(half_log_snr)) * (2 / math.pi)


class VPLinear(Path):
    """The VP diffusion path, α = exp(−½B(1 − t)), B(s) = β_min s + ½ s²(β_max − β_min), σ² = 1 − α².

    (Song 2021, VP-SDE; Ho 2020.) σ̇ diverges at t = 1, so integration ends at 1 − 1e-5.
    """

    name = "vp-linear"
    method = "VP"
    end_time = 1 - 1e-5
    preconditioned = True
    beta_min: float = Field(0.1, gt=0)
    beta_max: float = Field(20.0, gt=0)

    def schedule(self, t: Tensor) -> Schedule:
        s = 1 - t
        integral = self.beta_min * s + 0.5 * s**2 * (self.beta_max - self.beta_min)
        beta = self.beta_min + s * (self.beta_max - self.beta_min)
        alpha = torch.exp(-0.5 * integral)
        sigma = torch.sqrt(-torch.expm1(-integral))  # expm1: 1 − α² loses all digits near t = 1
        d_alpha = 0.5 * beta * alpha
        return Schedule(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)

    def time_at(self, half_log_snr: Tensor) -> Tensor:
        growth = self.beta_max - self.beta_min
        most = self.beta_min + 0.5 * growth
        integral = F.softplus(-2 * half_log_snr).clamp(
            max=most
        )  # B(s) = −log α²: a quadratic, solved without cancellation
        s = 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * growth * integral).clamp(min=0).sqrt())
        return (1 - s).clamp(0, 1)

    def warp(self, u: Tensor) -> Tensor:
        # Towards the data v grows like s^−½, s = 1 − t, where a network is not exact, and ‖v‖² like 1/s: half of the steps
        # are equal in t, half in log s.
        eps = 1 - self.end_time
        s = torch.logspace(0, math.log10(eps), 4097, dtype=torch.float64)
        place = 0.5 * (1 - s) / (1 - eps) + 0.5 * s.log() / math.log(eps)
        s[-1], place[-1] = eps, 1.0  # exactly the end, whatever the logarithms round to
        return torch.from_numpy(np.interp(u.double().cpu().numpy(), place.numpy(), (1 - s).numpy())).to(u.device)


class VE(Path):
    """The VE diffusion path, α = 1, σ = σ_min (σ_max/σ_min)^(1−t) (Song 2021; Lipman 2023, eq. 16)."""

    name = "ve"
    method = "VE"
    preconditioned = True
    sigma_min: float = Field(0.01, gt=0)
    sigma_max: float = Field(50.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> VE:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g} must be below sigma_max = {self.sigma_max:g}")
        return self

    def schedule(self, t: Tensor) -> Schedule:
        rate = math.log(self.sigma_max / self.sigma_min)
        sigma = self.sigma_min * torch.exp(rate * (1 - t))
        return Schedule(torch.ones_like(t), sigma, torch.zeros_like(t), -rate * sigma)

    def time_at(self, half_log_snr: Tensor) -> Tensor:
        rate = math.log(self.sigma_max / self.sigma_min)
        return (1 + (half_log_snr + math.log(self.sigma_min)) / rate).clamp(0, 1)


def derivative_gap(path: Path, h: float) -> float:
    """The largest gap between a path's derivatives and central differences over ±h, as a share of the largest slope, or of 1.

    At times that are no simple fractions, where a path given piecewise may have its kinks.
    """
    t, worst = torch.linspace(0.1037, 0.9029, 9, dtype=torch.float64), 0.0
    before, now, after = path.schedule(t - h), path.schedule(t), path.schedule(t + h)
    bridge = [] if now.gamma is None else [("gamma", "d_gamma")]
    for value, slope in (("alpha", "d_alpha"), ("sigma", "d_sigma"), *bridge):
        difference = (getattr(after, value) - getattr(before, value)) / (2 * h)
        scale = getattr(now, slope).abs().max().clamp(min=1)
        worst = max(worst, ((difference - getattr(now, slope)).abs().max() / scale).item())
    return worst


def column(t: Tensor, x: Tensor) -> Tensor:
    """t `()` or `(B,)` shaped to broadcast against x `(B, *shape)`."""
    return t if t.dim() == 0 else t.reshape(-1, *[1] * (x.dim() - 1))
