"""Where a solver takes an exact flow, against the data: what distances between samples estimate, without samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.law import MixtureLaw
from . import truth
from .base import Exact
from .transport import squared_distances

if TYPE_CHECKING:
    from .distances import Kernel


def are_known(flow: Exact) -> bool:
    """Whether the `kernel_means` are: asked while planning, without computing them."""
    return flow.solve is not None and truth.is_solved(flow)


def kernel_means(kernel: Kernel, flow: Exact) -> tuple[float, float, float] | None:
    """E k(x, x'), E k(y, y') and E k(x, y), for x where the cell's solver ends and y of the data; None where not known.

    One Gaussian: its field is affine in x, so is what a fixed-step solver makes of it, and x is Gaussian too: closed forms.
    Mixtures: sums over the grid of points from which the flow is traced, for all three, so that what the grid gets wrong
    of them is nearly the same where the laws are: 6e-4 of E‖x − y‖ where x is one point, 2e-4 for a few steps.
    """
    if flow.solve is None or (law := truth.known(flow)) is None:
        return None
    field = truth.velocity(flow.path, law)
    if (one := truth.gaussian(flow)) is not None:
        start = one.ends[1][0]  # (D,): from N(0, diag(start²))
        at = flow.solve(field, torch.cat([torch.zeros_like(start)[None], torch.diag(start)]))
        linear = at[1:] - at[0]
        x = MixtureLaw.of_covariances(at[:1], (linear.T @ linear)[None], torch.ones(1))
        return _over(kernel, x.minus(x)), _over(kernel, law.minus(law)), _over(kernel, x.minus(law))
    if (traced := truth.solved(flow)) is None:
        return None
    z0, z1, weights = traced.cubature()
    end = flow.solve(field, z0)
    return (
        _among(kernel, end, end, weights),
        _among(kernel, z1, z1, weights),
        _among(kernel, end, z1, weights),
    )


def discrepancy(kernel: Kernel, flow: Exact) -> float | None:
    """E k(x, x') + E k(y, y') − 2 E k(x, y): a squared maximum mean discrepancy."""
    if (means := kernel_means(kernel, flow)) is None:
        return None
    return means[0] + means[1] - 2 * means[2]


def _over(kernel: Kernel, difference: MixtureLaw) -> float:
    return (difference.weights @ kernel.expected(*difference.components())).item()


def _among(kernel: Kernel, a: Tensor, b: Tensor, weights: Tensor) -> float:
    """E k of independent points a, b `(M, D)` with the same weights `(M,)`, which sum to one but for the grid's error."""
    of_each = [kernel(squared_distances(rows, b)) @ weights for rows in a.split(1000)]
    return (weights @ torch.cat(of_each)).item() / weights.sum().item() ** 2
