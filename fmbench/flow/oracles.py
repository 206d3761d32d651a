"""Exact marginal velocities, no training: independent coupling, unit Gaussian source."""

from __future__ import annotations

import torch
from torch import Tensor

from .paths import Path

HELD_IN_DOUBLE = 2**24  # numbers of a data set that are kept in float64; a larger set is converted chunk by chunk
FLOATS_AT_ONCE = 2**22  # of a chunk of data, and of its distances to the batch: 32 MiB each


class MixtureVelocity:
    """v(t, x) for p1 = Σ_k w_k N(μ_k, Q_k diag(s_k²) Q_kᵀ) on any path; float64 inside, the dtype of x outside.

    Given a label `(B,)` of a component, a sample's velocity is that of this component alone: the exact conditional one.

    Args:
        means `(K, D)`, stds `(K, D)`, weights `(K,)`, axes `(K, D, D)`: the Q_k, eigenvectors as columns; None: identities.
    """

    def __init__(self, path: Path, means: Tensor, stds: Tensor, weights: Tensor, axes: Tensor | None = None):
        self.path = path
        self.means, self.variances = means.double(), stds.double() ** 2
        self.log_weights = weights.double().log()
        self.axes = None if axes is None else axes.double()

    def __call__(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        means, variances, log_weights = (a.to(x.device) for a in (self.means, self.variances, self.log_weights))
        axes = None if self.axes is None else self.axes.to(x.device)
        s = self.path.marginal(t.to(x.device).double().reshape(-1, 1, 1))
        y = x.double().flatten(1)[:, None, :] - s.alpha * means  # (B, K, D): x − α μ_k
        if axes is not None:
            y = torch.einsum("bkd,kde->bke", y, axes)
        c = s.alpha**2 * variances + s.sigma**2  # C_k, diagonal in its own axes
        log_r = log_weights - 0.5 * (y**2 / c + c.log()).sum(-1)
        if label is not None:
            log_r = log_r.masked_fill(torch.arange(log_r.shape[1], device=x.device) != label[:, None], -torch.inf)
        r = torch.softmax(log_r, dim=1)[..., None]
        data = s.alpha * variances / c * y  # E[x1 | x, k] − μ_k
        noise = s.sigma / c * y  # E[x0 | x, k]
        v = s.d_alpha * data + s.d_sigma * noise
        if axes is not None:
            v = torch.einsum("bke,kde->bkd", v, axes)
        v = (r * (s.d_alpha * means + v)).sum(1)
        return v.reshape(x.shape).to(x.dtype)


class EmpiricalVelocity:
    """v(t, x) for p1 = the uniform law on N points: a mixture of components without width. Exact: no point is left out.

    E[x1 | x] = Σ_i r_i x_i, r = softmax(−‖x − α x_i‖² / 2σ²), in float64, in one pass over chunks of the points, so that
    memory is bounded whatever N (where gradients are asked for, all N × B weights are kept); then
    E[x0 | x] = (x − α E[x1 | x]) / σ. Works on the device of x.

    Where σ = 0 (`rectified` at t = 1) the law is the points themselves and v has no limit off them: E[x0 | x] is then its
    value on them, 0. Solvers that call the field at the very end of such a path see that jump and converge at first order
    there; `fm-ot` with a visible σ_min has none.

    Args:
        points: `(N, *shape)`.
    """

    def __init__(self, path: Path, points: Tensor):
        self.path = path
        flat = points.flatten(1)
        self.centre = flat.mean(0, dtype=torch.float64)  # distances lose no digits to a common offset
        self.points = flat.double() if flat.numel() <= HELD_IN_DOUBLE else flat
        self._held: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        s = self.path.marginal(t.to(x.device).double().reshape(-1, 1))
        flat = x.double().flatten(1)
        data = self.expected_data(flat, s.alpha, s.sigma)
        noise = torch.where(s.sigma > 0, (flat - s.alpha * data) / s.sigma.clamp(min=1e-300), 0.0)
        return (s.d_alpha * data + s.d_sigma * noise).reshape(x.shape).to(x.dtype)

    def expected_data(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x1 | x] `(B, D)` of x `(B, D)`, float64; α and σ `(B, 1)` or `(1, 1)`."""
        if x.device not in self._held:
            self._held[x.device] = self.points.to(x.device), self.centre.to(x.device)
        points, centre = self._held[x.device]
        y = x - alpha * centre
        inverse = sigma.square().clamp(min=1e-290).reciprocal()  # σ = 0: all weight on the nearest, without an overflow
        most = torch.full((len(x), 1), -torch.inf, dtype=torch.float64, device=x.device)
        total, mean = torch.zeros_like(most), torch.zeros_like(x)
        for part in points.split(max(1, FLOATS_AT_ONCE // max(len(x), x.shape[1]))):
            part = part.double() - centre
            # ‖y − α x_i‖² less ‖y‖², which all points share
            logits = (alpha * (y @ part.T) - 0.5 * alpha**2 * part.square().sum(1)) * inverse
            new = torch.maximum(most, logits.detach().amax(1, keepdim=True))
            weights, kept = torch.exp(logits - new), torch.exp(most - new)
            total, mean, most = total * kept + weights.sum(1, keepdim=True), mean * kept + weights @ part, new
        return centre + mean / total
