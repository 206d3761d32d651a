"""The exact flow to one Gaussian in closed form: what every geometric metric should measure on it.

For p1 = N(μ, Q diag(λ) Qᵀ) and independent N(0, I) noise the marginal velocity is linear in x. Along it, in the axes Q,

    Z_t = m_t + g_t ε,   m_t = μ (α_t − r_t α_0),   g_t = r_t σ_0,   r_t = s_t / s_0,   s_t² = α_t² λ + σ_t²,

from the start Z_0 = σ_0 ε. With α_0 = 0, σ_0 = 1, σ_1 = 0 that ends in Z_1 = μ + √λ ε, the optimal transport map, whatever
the path. Integrals over t are by composite Gauss-Legendre rules on the path's own grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .paths import Path


@dataclass(frozen=True)
class GaussianFlow:
    """The flow of a path to N(mean, axes diag(stds²) axesᵀ); all values float64, sums over dimensions."""

    path: Path
    mean: Tensor  # (D,)
    stds: Tensor  # (D,)
    axes: Tensor | None = None  # (D, D), eigenvectors as columns; None: the identity

    @property
    def mu(self) -> Tensor:
        """The mean in the covariance's own axes."""
        return self.mean if self.axes is None else self.mean @ self.axes

    def state(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """m, g and their time derivatives, `(T, D)` each, at t `(T,)`."""
        zero = torch.zeros(1, 1, dtype=torch.float64)
        first, now = self.path.marginal(zero), self.path.marginal(t[:, None])
        start = self.path.start(torch.ones_like(zero))  # σ_0: where sampling starts
        variance = self.stds**2
        s0 = (first.alpha**2 * variance + first.sigma**2).sqrt()
        s = (now.alpha**2 * variance + now.sigma**2).sqrt()
        rate = (now.alpha * now.d_alpha * variance + now.sigma * now.d_sigma) / s
        r, d_r = s / s0, rate / s0
        m, d_m = self.mu * (now.alpha - r * first.alpha), self.mu * (now.d_alpha - d_r * first.alpha)
        return m, r * start, d_m, d_r * start

    @cached_property
    def ends(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`state` at times 0 and end_time, `(2, D)` each."""
        return self.state(torch.tensor([0.0, self.path.end_time], dtype=torch.float64))

    @cached_property
    def displacement(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation `(D,)` of Z1 − Z0 in the axes; a negative deviation is a shrinking one."""
        m, g, _, _ = self.ends
        return m[1] - m[0], g[1] - g[0]

    @cached_property
    def _along(self) -> tuple[Tensor, Tensor, Tensor]:
        """Quadrature weights `(T,)` and the rates ṁ, ġ `(T, D)`."""
        t, weights = nodes(self.path)
        _, _, d_m, d_g = self.state(t)
        return weights, d_m, d_g

    def cubature(self) -> tuple[Tensor, Tensor, Tensor]:
        """Points z0 and z1 `(2D, D)`, weights `(2D,)`: their sums are means over the flow's coupling, of quadratic functions."""
        m, g, _, _ = self.ends
        d = len(self.mean)
        noise = math.sqrt(d) * torch.cat([torch.eye(d), -torch.eye(d)]).double()
        z0, z1 = m[0] + g[0] * noise, m[1] + g[1] * noise
        if self.axes is not None:
            z0, z1 = z0 @ self.axes.T, z1 @ self.axes.T
        return z0, z1, torch.full((2 * d,), 0.5 / d, dtype=torch.float64)

    def transport_cost(self) -> float:
        """E‖Z1 − Z0‖²."""
        return sum(part.square().sum().item() for part in self.displacement)

    def transport_cost_l1(self) -> float:
        """E‖Z1 − Z0‖₁: folded normals in the data's own coordinates."""
        mean, std = self.displacement
        if self.axes is not None:
            mean, std = self.axes @ mean, (self.axes**2 @ std**2).sqrt()
        return sum(mean_norm(m[None], s[None]).item() for m, s in zip(mean, std, strict=True))

    def transport_cost_l2(self) -> float:
        """E‖Z1 − Z0‖."""
        return mean_norm(*self.displacement).item()

    def path_energy(self) -> float:
        """∫ E‖v(t, Z_t)‖² dt."""
        weights, d_m, d_g = self._along
        return (weights @ (d_m**2 + d_g**2).sum(1)).item()

    def straightness(self) -> float:
        """∫ E‖(Z1 − Z0) − v(t, Z_t)‖² dt."""
        weights, d_m, d_g = self._along
        mean, std = self.displacement
        return (weights @ ((mean - d_m) ** 2 + (std - d_g) ** 2).sum(1)).item()

    def one_step_error(self) -> float:
        """E‖Z0 + T v(0, Z0) − Z1‖², T = end_time."""
        mean, std = self.displacement
        _, _, d_m, d_g = self.ends
        end = self.path.end_time
        return ((end * d_m[0] - mean) ** 2 + (end * d_g[0] - std) ** 2).sum().item()

    def path_length(self) -> float:
        """E ∫‖v(t, Z_t)‖ dt."""
        weights, d_m, d_g = self._along
        return (weights @ mean_norm(d_m, d_g)).item()

    def w2_squared(self) -> float:
        """Between the law of Z0, N(0, σ_0² I), and the data's."""
        _, g, _, _ = self.ends
        return (self.mu.square().sum() + (self.stds - g[0]).square().sum()).item()

    def nll(self) -> float:
        """−E log p(x), x from the data and p the law of Z1, N(m_1, g_1²): the data's entropy where they agree."""
        m, g, _, _ = self.ends
        gap = self.stds**2 + (self.mu - m[1]) ** 2
        return (0.5 * (2 * math.pi * g[1] ** 2).log() + gap / (2 * g[1] ** 2)).sum().item()

    def minimal_loss(self) -> float:
        """E‖u_t − v(t, x_t)‖² at a uniform time in [0, end_time]: the variance of u_t that x_t leaves."""
        t, weights = nodes(self.path)
        s, variance = self.path.schedule(t[:, None]), self.stds**2
        gamma, d_gamma = (torch.zeros_like(s.alpha) if g is None else g for g in (s.gamma, s.d_gamma))
        of_u = s.d_alpha**2 * variance + s.d_sigma**2 + d_gamma**2
        of_x = s.alpha**2 * variance + s.sigma**2 + gamma**2
        both = s.alpha * s.d_alpha * variance + s.sigma * s.d_sigma + gamma * d_gamma
        return (weights @ (of_u - both**2 / of_x).sum(1)).item() / self.path.end_time


def nodes(path: Path, pieces: int = 64, order: int = 8) -> tuple[Tensor, Tensor]:
    """Times and weights, float64, that integrate over [0, end_time]: a Gauss-Legendre rule on each piece of the path's grid."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(order))
    edges = path.warp(torch.linspace(0, 1, pieces + 1, dtype=torch.float64))
    half = 0.5 * edges.diff()[:, None]
    return (edges[:-1, None] + half * (1 + x)).flatten(), (half * w).flatten()


def mean_norm(mean: Tensor, std: Tensor) -> Tensor:
    """E‖mean + std ε‖, ε ~ N(0, I), over the last axis.

    √q = (1 / 2√π) ∫₀^∞ u^(−3/2) (1 − e^(−uq)) du, and E e^(−u‖·‖²) is a product of one-dimensional factors. With u = e^y / E‖·‖²
    the integrand is smooth and falls like e^(−|y|/2): the trapezoidal rule is exact to rounding.
    """
    square = mean.square().sum(-1) + std.square().sum(-1)
    y = torch.linspace(-80, 80, 1601, dtype=torch.float64)
    u = (y.exp() / torch.where(square > 0, square, 1)[..., None])[..., None]  # (…, Y, 1)
    widening = 2 * u * std[..., None, :] ** 2
    log_factor = (-0.5 * torch.log1p(widening) - u * mean[..., None, :] ** 2 / (1 + widening)).sum(-1)
    integral = (-torch.expm1(log_factor) * (-0.5 * y).exp()).sum(-1) * (y[1] - y[0])
    return square.sqrt() * integral / (2 * math.sqrt(math.pi))
