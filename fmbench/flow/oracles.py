"""Exact marginal velocities, no training: independent coupling, unit Gaussian source."""

from __future__ import annotations

import torch
from torch import Tensor

from .paths import Path


class MixtureVelocity:
    """v(t, x) for p1 = Σ_k w_k N(μ_k, diag(s_k²)) on any affine path; float64 inside, the dtype of x outside.

    Args:
        means `(K, D)`, stds `(K, D)`, weights `(K,)`.
    """

    def __init__(self, path: Path, means: Tensor, stds: Tensor, weights: Tensor):
        self.path = path
        self.means, self.variances = means.double(), stds.double() ** 2
        self.log_weights = weights.double().log()

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        s = self.path.marginal(t.double().reshape(-1, 1, 1))
        y = x.double().flatten(1)[:, None, :] - s.alpha * self.means  # (B, K, D): x − α μ_k
        c = s.alpha**2 * self.variances + s.sigma**2  # C_k, diagonal
        log_r = self.log_weights - 0.5 * (y**2 / c + c.log()).sum(-1)
        r = torch.softmax(log_r, dim=1)[..., None]
        data = self.means + s.alpha * self.variances / c * y  # E[x1 | x, k]
        noise = s.sigma / c * y  # E[x0 | x, k]
        v = (r * (s.d_alpha * data + s.d_sigma * noise)).sum(1)
        return v.reshape(x.shape).to(x.dtype)
