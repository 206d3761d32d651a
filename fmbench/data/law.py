"""A Gaussian mixture as numbers: what oracles, densities and closed forms are computed from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MixtureLaw:
    """Σ_k w_k N(μ_k, Q_k diag(s_k²) Q_kᵀ), float64. `axes` holds the orthogonal Q_k; None where all are the identity."""

    means: Tensor  # (K, D)
    stds: Tensor  # (K, D)
    weights: Tensor  # (K,), summing to one
    axes: Tensor | None = None  # (K, D, D), eigenvectors as columns

    @classmethod
    def of_covariances(cls, means: Tensor, covariances: Tensor, weights: Tensor) -> MixtureLaw:
        """From full matrices `(K, D, D)`, symmetric positive semidefinite."""
        variances, axes = torch.linalg.eigh(covariances.double())
        return cls(means.double(), variances.clamp(min=0).sqrt(), weights.double(), axes)

    def covariances(self) -> Tensor:
        """Σ_k `(K, D, D)`."""
        if self.axes is None:
            return torch.diag_embed(self.stds**2)
        return self.axes * self.stds[:, None] ** 2 @ self.axes.mT

    def minus(self, other: MixtureLaw) -> MixtureLaw:
        """The law of x − y for independent x of this law and y of the other: one component for each pair of theirs."""
        means = (self.means[:, None] - other.means).flatten(0, 1)
        covariances = (self.covariances()[:, None] + other.covariances()).flatten(0, 1)
        return MixtureLaw.of_covariances(means, covariances, torch.outer(self.weights, other.weights).flatten())

    def components(self) -> tuple[Tensor, Tensor]:
        """Each component's mean and standard deviations `(K, D)` along its own axes."""
        return (self.means if self.axes is None else (self.means[:, None] @ self.axes)[:, 0]), self.stds

    def mean(self) -> Tensor:
        """Of the whole law, `(D,)`."""
        return self.weights @ self.means

    def total_variance(self) -> float:
        """The trace of the whole law's covariance."""
        within = self.stds.square().sum(1) + self.means.square().sum(1)
        return (self.weights @ within - self.mean().square().sum()).item()

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent samples `(n, D)`, float32, and their components `(n,)`."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        noise = self.stds[k].float() * torch.randn(n, self.means.shape[1], generator=rng)
        if self.axes is not None:
            noise = (self.axes.float()[k] @ noise[:, :, None])[:, :, 0]
        return self.means[k].float() + noise, k

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) `(n,)` at x `(n, D)`."""
        means, stds, weights = (a.to(x.device) for a in (self.means, self.stds, self.weights))
        y = x.double()[:, None] - means
        z = (y if self.axes is None else torch.einsum("nkd,kde->nke", y, self.axes.to(x.device))) / stds  # (n, K, D)
        log_normal = -0.5 * z.square().sum(2) - stds.log().sum(1) - 0.5 * y.shape[2] * math.log(2 * math.pi)
        return torch.logsumexp(weights.log() + log_normal, dim=1)
