"""Exact values of metrics on exact flows: closed forms for one Gaussian, quadrature for mixtures of few dimensions."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from ..data.base import Data
from ..data.law import MixtureLaw
from ..flow.gaussian import GaussianFlow, mean_norm, nodes
from ..flow.oracles import MixtureVelocity
from ..flow.paths import Path
from .base import Exact
from .traced import TracedFlow

POINTS = 250_000  # of a quadrature grid; a mixture that needs more has no exact values here
REACH = 7.5  # standard deviations that a grid covers: what is beyond weighs 1e-13
QUADRATURE = (8, 4)  # pieces in time, and nodes in each
LEAST = 1e-8  # of the greatest weight: points of less are left out where a flow is traced
TRACED = {1: 0.05, 2: 0.6}  # SPACING there, by dimension: norms have a kink, which leaves errors of 1e-4
FINER = {1: (), 2: (0.35, 0.45, 0.5)}  # in its place for a solver's error: the first that POINTS holds
SPACING = 0.5  # of the grid, in the least standard deviation: errors of 1e-7, from how sharply components part


def known(flow: Exact) -> MixtureLaw | None:
    """The data's law where the exact flow is known: a mixture of Gaussians, independent of its normal source."""
    independent = flow.source.name == "normal" and flow.coupling.name == "independent"
    return flow.data.mixture() if independent and flow.path.sound else None


def gaussian(flow: Exact) -> GaussianFlow | None:
    """The exact flow in closed form where the data is one Gaussian."""
    law = known(flow)
    return None if law is None or len(law.means) > 1 else _gaussian(flow.path, flow.data)


def solved(flow: Exact) -> GaussianFlow | TracedFlow | None:
    """The exact flow, from which its costs and its geometry are read: in closed form or traced."""
    if (one := gaussian(flow)) is not None:
        return one
    return _traced(flow.path, flow.data) if is_solved(flow) else None


def solver_error(flow: Exact) -> float | None:
    """√(E‖Z1 of the cell's solver − Z1‖² / D), by the solver's own steps from points whose weighted sums are means.

    For one Gaussian the velocity is affine in x, and so is what a fixed-step solver makes of z0: 2D points are exact.
    Of mixtures in the plane much of the error is made on narrow bands, where paths part. The grid of the flow's other values
    left up to 2 % of it; one about half as wide leaves 6e-4, more where components part most sharply.
    """
    if flow.solve is None or not is_solved(flow) or (law := known(flow)) is None:
        return None
    of_points = gaussian(flow) or _traced(flow.path, flow.data, FINER[law.means.shape[1]])
    if of_points is None:
        return None
    z0, z1, weights = of_points.cubature()
    gap = flow.solve(velocity(flow.path, law), z0) - z1
    return math.sqrt((weights @ gap.square().mean(1)).item())


@lru_cache(maxsize=64)
def _gaussian(path: Path, data: Data) -> GaussianFlow | None:
    law = data.mixture()
    assert law is not None
    return GaussianFlow(path, law.means[0], law.stds[0], None if law.axes is None else law.axes[0])


def train_coupling_cost(flow: Exact) -> float | None:
    """E‖x1 − x0‖² of independent ends, from their means and variances."""
    x0, x1 = flow.source.mixture(), flow.data.mixture()
    if flow.coupling.name != "independent" or x0 is None or x1 is None:
        return None
    return (x1.mean() - x0.mean()).square().sum().item() + x1.total_variance() + x0.total_variance()


def train_coupling_cost_l1(flow: Exact) -> float | None:
    """E‖x1 − x0‖₁ of independent ends: folded normals, coordinate by coordinate."""
    if (law := _difference(flow)) is None:
        return None
    stds = law.covariances().diagonal(dim1=1, dim2=2).sqrt()
    return (law.weights @ mean_norm(law.means[..., None], stds[..., None]).sum(1)).item()


def train_coupling_cost_l2(flow: Exact) -> float | None:
    """E‖x1 − x0‖ of independent ends."""
    if (law := _difference(flow)) is None:
        return None
    return (law.weights @ mean_norm(*law.components())).item()


def _difference(flow: Exact) -> MixtureLaw | None:
    """The law of x1 − x0 for independent ends that are mixtures: one component for each pair of theirs."""
    x0, x1 = flow.source.mixture(), flow.data.mixture()
    if flow.coupling.name != "independent" or x0 is None or x1 is None:
        return None
    return x1.minus(x0)


def nll(flow: Exact) -> float | None:
    """−E log p(x), x from the data and p the law that the exact flow ends in."""
    if (one := gaussian(flow)) is not None:
        return one.nll()
    return _entropy(flow.data) if known(flow) is not None and _from_source_to_data(flow.path) else None


def path_energy(flow: Exact) -> float | None:
    """∫ E‖v(t, Z_t)‖² dt."""
    if (one := gaussian(flow)) is not None:
        return one.path_energy()
    energies = _mixture_energies(flow)
    return None if energies is None else energies[1]


def minimal_loss(flow: Exact) -> float | None:
    """E‖u_t − v(t, x_t)‖² at a uniform time in [0, end_time]."""
    if (one := gaussian(flow)) is not None:
        return one.minimal_loss()
    energies = _mixture_energies(flow)
    return None if energies is None else energies[0] - energies[1]


def _mixture_energies(flow: Exact) -> tuple[float, float] | None:
    whole = known(flow) is not None and _from_source_to_data(flow.path)
    return _energies(flow.path, flow.data) if whole else None


def is_solved(flow: Exact) -> bool:
    """Whether `solved`, `path_energy` and `minimal_loss` are known: asked while planning, without their quadrature."""
    if gaussian(flow) is not None:
        return True
    if (law := known(flow)) is None or not _from_source_to_data(flow.path):
        return False
    ends = ((s.alpha.item(), s.sigma.item()) for s in map(flow.path.marginal, nodes(flow.path, *QUADRATURE)[0]))
    return all(_counts(at_t) is not None for at_t in (law, *(_spread(law, *end) for end in ends)))


def _from_source_to_data(path: Path) -> bool:
    """Whether the flow starts exactly in p0 and ends in p1, but for less than 1e-9 of its variance."""
    s = path.marginal(torch.ones((), dtype=torch.float64))
    return (
        path.end_time == 1
        and path.affine
        and path.starts_at_source()
        and s.alpha.item() == 1
        and s.sigma.item() ** 2 < 1e-9
    )


@lru_cache(maxsize=64)
def _entropy(data: Data) -> float | None:
    law = data.mixture()
    assert law is not None
    if (grid := _grid(law)) is None:
        return None
    x, cell = grid
    log_p = law.log_density(x)
    return -(log_p.exp() @ log_p).item() * cell


@lru_cache(maxsize=64)
def _energies(path: Path, data: Data) -> tuple[float, float] | None:
    """∫ E‖u_t‖² dt and ∫ E‖v(t, x_t)‖² dt: their difference is the minimal loss, for v(t, x) = E[u_t | x_t = x]."""
    law = data.mixture()
    assert law is not None
    field = velocity(path, law)
    square = law.total_variance() + law.mean().square().sum().item()
    of_u = of_v = 0.0
    for t, weight in zip(*nodes(path, *QUADRATURE), strict=True):
        s = path.marginal(t)
        at_t = _spread(law, s.alpha.item(), s.sigma.item())
        if (grid := _grid(at_t)) is None:
            return None
        x, cell = grid
        of_v += weight.item() * (at_t.log_density(x).exp() @ field(t, x).square().sum(1)).item() * cell
        of_u += weight.item() * (s.d_alpha**2 * square + s.d_sigma**2 * x.shape[1]).item()
    return of_u, of_v


@lru_cache(maxsize=64)
def _traced(path: Path, data: Data, spacings: tuple[float, ...] = ()) -> TracedFlow | None:
    """The flow traced from the first grid that POINTS holds, of these spacings or of TRACED's; None where it holds none."""
    law = data.mixture()
    assert law is not None
    grids = (_grid(law, spacing) for spacing in spacings or (TRACED[law.means.shape[1]],))
    if (grid := next(filter(None, grids), None)) is None:
        return None
    x, cell = grid
    weights = law.log_density(x).exp() * cell
    heavy = weights > LEAST * weights.max()
    field = velocity(path, law)
    return TracedFlow(field, x[heavy], weights[heavy])


def velocity(path: Path, law: MixtureLaw) -> MixtureVelocity:
    """The exact field of a path to a mixture."""
    return MixtureVelocity(path, law.means, law.stds, law.weights, law.axes)


def _spread(law: MixtureLaw, alpha: float, sigma: float) -> MixtureLaw:
    """The law of α x1 + σ ε."""
    return MixtureLaw(alpha * law.means, (alpha**2 * law.stds**2 + sigma**2).sqrt(), law.weights, law.axes)


def _counts(law: MixtureLaw, spacing: float = SPACING) -> tuple[Tensor, Tensor, Tensor] | None:
    """Lower and upper ends `(D,)` of a grid that covers a law, and its points along each axis; None where they are too many."""
    far, near = REACH * law.stds.max().item(), spacing * law.stds.min().item()
    low, high = law.means.amin(0) - far, law.means.amax(0) + far
    counts = ((high - low) / near).ceil().long() + 1
    return None if law.means.shape[1] > 2 or counts.prod().item() > POINTS else (low, high, counts)


def _grid(law: MixtureLaw, spacing: float = SPACING) -> tuple[Tensor, float] | None:
    """Points `(M, D)` that cover a law, and the volume of one cell; None where that takes too many points."""
    if (extent := _counts(law, spacing)) is None:
        return None
    low, high, counts = extent
    axes = [torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in zip(low, high, counts.tolist(), strict=True)]
    cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), cell
