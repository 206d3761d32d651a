"""The Fréchet distance between Gaussians fitted to two samples, and its plainest form: on pixels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from ..data.base import Data, Split
from ..errors import Skip
from ..statistics import Estimate
from .base import Evidence, TwoSampleMetric, take_up_to
from .transport import of_two


class FDPixels(TwoSampleMetric):
    """Fréchet distance on the samples' own coordinates: ‖m1 − m2‖² + tr(C1 + C2 − 2 (C1 C2)^½).

    Against ALL training samples of a finite set, n draws of an endless one. Generated images are first rounded to the
    data's grey levels (`quantise`), as the reference images are. Plug-in covariances make the value biased upward by
    order D²/n: compare at equal n, and with the floor (held-out against training samples).
    """

    name = "fd_pixels"
    version = 2  # the standard error had no degrees of freedom once
    unit = "1"
    source = "Heusel et al. 2017, eq. 6 (Dowson & Landau 1982), on pixels"
    against: ClassVar[Split] = "train"

    def real(self, data: Data, split: Split, n: int, seed: int) -> Tensor:
        if split == self.against and data.size(split) is not None:
            return data.take(split, None, seed)
        return take_up_to(data, split, n, seed)

    def measure(self, evidence: Evidence) -> Estimate:
        levels = evidence.data.levels
        if levels is not None:
            evidence = dataclasses.replace(evidence, generated=quantise(evidence.generated, levels))
        return super().measure(evidence)

    def distance(self, x: Tensor, y: Tensor) -> Estimate:
        if min(len(x), len(y)) < 2:
            raise Skip(f"a covariance needs two samples a side, here are {len(x)} and {len(y)}")
        (mean_x, cov_x), (mean_y, cov_y) = moments(x), moments(y)
        value = frechet_distance(mean_x, cov_x, mean_y, cov_y)
        influences = (
            influence(x - mean_x, mean_x - mean_y, transport(x - mean_x, cov_x, cov_y)[1]),
            influence(y - mean_y, mean_y - mean_x, transport(y - mean_y, cov_y, cov_x)[1]),
        )
        return of_two(value, *influences)


def quantise(x: Tensor, levels: int) -> Tensor:
    """The nearest of `levels` equal steps from −1 to 1, half a step rounding up, values outside clamped."""
    steps = (levels - 1) / 2
    return ((x.double() + 1) * steps + 0.5).floor().clamp(0, levels - 1).div(steps).sub(1).to(x.dtype)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(D,)` and unbiased covariance `(D, D)` of x `(n, D)`, float64."""
    x = x.double()
    return x.mean(0), torch.atleast_2d(x.T.cov())


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """‖m1 − m2‖² + tr C1 + tr C2 − 2 tr (C1^½ C2 C1^½)^½, W2² of the two Gaussians, float64.

    By eigenvalues of symmetric matrices alone: no root that turns complex, and singular covariances are fine. The cross
    term is the same for any factor F with C1 = Fᵀ F: Cholesky's, cheapest, where there is one, else the symmetric root.
    """
    mean1, cov1, mean2, cov2 = (a.double() for a in (mean1, cov1, mean2, cov2))
    lower, singular = torch.linalg.cholesky_ex(cov1)
    factor = _roots(cov1)[0] if singular else lower.T
    cross = torch.linalg.eigvalsh(factor @ cov2 @ factor.T).clamp(min=0).sqrt().sum()
    return ((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).clamp(min=0).item()


def transport(centred: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of the optimal map T from N(0, own) to N(0, other): tr (own^½ other own^½)^½, and cᵀ T c `(n,)` for each row c.

    T = own^−½ (own^½ other own^½)^½ own^−½, on the range of `own` alone, where its samples lie.
    """
    half, inverse = _roots(own)
    values, vectors = torch.linalg.eigh(half @ other @ half)
    root = values.clamp(min=0).sqrt()
    return root.sum(), (centred @ inverse @ vectors * root.sqrt()).square().sum(1)


def influence(centred: Tensor, shift: Tensor, mapped: Tensor) -> Tensor:
    """How much each sample `(n, D)` moves the distance, up to a constant `(n,)`: ∂/∂m1 = 2 (m1 − m2), ∂/∂C1 = I − T."""
    return 2 * centred @ shift + centred.square().sum(1) - mapped


def _roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Square root of a positive semidefinite matrix, and the pseudo-inverse of that root."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > values[-1].clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
    root = values.clamp(min=0).sqrt() * kept
    inverse = torch.where(kept, root, 1).reciprocal() * kept
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T
