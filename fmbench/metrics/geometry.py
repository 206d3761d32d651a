"""The geometry of a flow, read from its one reference solve: cost, energy, straightness.

All in the data's own scale: raw values of different data sets do not compare, the normalised ones do.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor

from ..statistics import Estimate, added, mean, ratio
from . import truth
from .base import Evidence, Exact, Geometry, Metric, PerSampleMetric, take_up_to
from .convex import L1, L2, Convex, Power, Square
from .transport import exact_transport


class _OfSolved(Metric):
    """Base of what is known of every flow that `truth.solved` knows."""

    def has_true_value(self, flow: Exact) -> bool:
        """Without solving a mixture's flow, which takes half a second."""
        return truth.is_solved(flow) if truth.gaussian(flow) is None else self.true_value(flow) is not None


class ConvexCost(Convex, PerSampleMetric):
    """E c(Z1 − Z0) of the flow's own coupling. For another convex c derive from this and implement `c`."""

    source = "Liu et al. 2022, theorem 3.5"

    def per_sample(self, geometry: Geometry) -> Tensor:
        return self.c(geometry.displacement)


class TransportCost(_OfSolved, Square, ConvexCost):
    """E‖Z1 − Z0‖² of the flow's own coupling. Lower is cheaper; no less than `w2_squared` up to sampling error."""

    name = "transport_cost"

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return None if one is None else one.transport_cost()


class TransportCostL1(_OfSolved, L1, ConvexCost):
    """E‖Z1 − Z0‖₁ of the flow's own coupling: the cost that few large moves lower most."""

    name = "transport_cost_l1"

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return None if one is None else one.transport_cost_l1()


class TransportCostL2(_OfSolved, L2, ConvexCost):
    """E‖Z1 − Z0‖ of the flow's own coupling, the distance itself."""

    name = "transport_cost_l2"

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return None if one is None else one.transport_cost_l2()


class TransportCostPower(Power, ConvexCost):
    """E‖Z1 − Z0‖^p of the flow's own coupling, p ≥ 1."""

    name = "transport_cost_power"


class Straightness(_OfSolved, PerSampleMetric):
    """S = ∫ E‖(Z1 − Z0) − v(t, Z_t)‖² dt: 0 exactly when every path is a straight line at constant speed."""

    name = "straightness"
    unit = "data units²"
    source = "Liu et al. 2022, eq. 5"

    def per_sample(self, geometry: Geometry) -> Tensor:
        return geometry.straightness

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return None if one is None else one.straightness()


class PathEnergy(PerSampleMetric):
    """∫ E‖v(t, Z_t)‖² dt = transport_cost + straightness; at least W2² (Benamou & Brenier 2000)."""

    name = "path_energy"
    unit = "data units²"
    source = "Tong et al. 2024, section 5 (path energy)"

    def per_sample(self, geometry: Geometry) -> Tensor:
        return geometry.energy

    def true_value(self, flow: Exact) -> float | None:
        return truth.path_energy(flow)

    def has_true_value(self, flow: Exact) -> bool:
        return truth.is_solved(flow)


class OneStepError(_OfSolved):
    """E‖Z0 + T v(0, Z0) − Z1‖²: what one Euler step over the whole time T (1, or 1 − ε) misses."""

    name = "one_step_error"
    unit = "data units²"
    scope = "flow"
    source = "Liu et al. 2022, section 3.3 (one-step simulation)"

    def measure(self, evidence: Evidence) -> Estimate:
        geometry = evidence.geometry
        step = evidence.end_time * geometry.start_velocity.double().flatten(1)
        return mean((step - geometry.displacement).square().sum(1))

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return None if one is None else one.one_step_error()


class StraightnessNormalized(_OfSolved):
    """S / E‖Z1 − Z0‖², a ratio of means: straightness that compares across data sets."""

    name = "straightness_normalized"
    unit = "1"
    scope = "flow"
    source = "S of Liu et al. 2022, eq. 5, over the transport cost"

    def measure(self, evidence: Evidence) -> Estimate:
        geometry = evidence.geometry
        return ratio(geometry.straightness, geometry.displacement.square().sum(1))

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return one.straightness() / one.transport_cost() if one is not None and one.transport_cost() else None


class PathLengthRatio(_OfSolved):
    """E ∫‖v(t, Z_t)‖ dt / E‖Z1 − Z0‖ ≥ 1: how much longer the paths are than their chords.

    A ratio of means: the mean of ratios has no finite variance where displacements vanish.
    """

    name = "path_length_ratio"
    unit = "1"
    scope = "flow"
    source = "arc length over chord length"

    def measure(self, evidence: Evidence) -> Estimate:
        geometry = evidence.geometry
        return ratio(geometry.length, geometry.displacement.norm(dim=1))

    def true_value(self, flow: Exact) -> float | None:
        one = truth.solved(flow)
        return one.path_length() / one.transport_cost_l2() if one is not None and one.transport_cost_l2() else None


class _AgainstTransport(Metric):
    """Base of what needs the exact W2² between the flow's first `n` starting points and as many held-out samples."""

    scope: ClassVar = "flow"
    n: PositiveInt = 2000

    def w2_squared(self, evidence: Evidence) -> Estimate:
        z0 = evidence.geometry.z0[: self.n]
        real = take_up_to(evidence.data, "test", len(z0), evidence.seed)
        return exact_transport(z0, real).estimate


class W2Squared(_AgainstTransport):
    """Exact W2² between draws of source and data: the least transport cost and path energy that any flow can have.

    Between n draws a side, hence above the population's value by a bias of order n^(−2/D): small in the plane, large
    for images. The standard error (del Barrio & Loubes 2019) does not cover that bias. Where fewer were sampled or are held
    out, it is between those: the row's n says how many.
    """

    name = "w2_squared"
    unit = "data units²"
    higher_is_better = None  # a property of source and data, not of the flow
    source = "Kantorovich problem, squared Euclidean cost; POT ot.emd2"

    def measure(self, evidence: Evidence) -> Estimate:
        return self.w2_squared(evidence)

    def true_value(self, flow: Exact) -> float | None:
        """The population's, below the expected measurement by its bias."""
        one = truth.gaussian(flow)
        return None if one is None else one.w2_squared()


class NPE(_AgainstTransport):
    """Normalised path energy |A − W2²| / W2², A = path_energy: 0 for the dynamic optimal transport.

    Delta method, taking A and W2² as independent. W2² is `w2_squared` with its sampling bias.
    """

    name = "npe"
    unit = "1"
    source = "Tong et al. 2024, section 5 (normalized path energy)"

    def measure(self, evidence: Evidence) -> Estimate:
        energy, least = mean(evidence.geometry.energy), self.w2_squared(evidence)
        if least.value == 0:
            return Estimate(math.inf, math.inf, least.n)
        quotient = energy.value / least.value
        excess = added(energy, (-quotient, least))
        return replace(excess, value=abs(quotient - 1), stderr=excess.stderr / least.value, n=least.n)

    def true_value(self, flow: Exact) -> float | None:
        one = truth.gaussian(flow)
        return abs(one.path_energy() / one.w2_squared() - 1) if one is not None and one.w2_squared() else None


def identity_residual(geometry: Geometry, end_time: float = 1.0) -> Estimate:
    """path_energy − transport_cost − straightness, 0 for an exact solve: the check of every reference solve.

    Over [0, T] the square expands to A = S + (2 − T) C, with C the transport cost; at T = 1 that is the named identity.
    """
    cost = geometry.displacement.square().sum(1)
    return mean(geometry.energy - (2 - end_time) * cost - geometry.straightness)


def identity_tolerance(geometry: Geometry) -> float:
    """What quadrature (1e-3 of the path energy) and the solve's own error leave of `identity_residual`.

    The identity uses ∫v dt = Z1 − Z0. If Z1 is off by δ it is off by 2 E⟨Z1 − Z0, δ⟩ ≤ 2 √C √(E‖δ‖²), and the
    geometry's `error` is √(E‖δ‖² / D).
    """
    displacement = geometry.displacement
    cost = displacement.square().sum(1).mean().item()
    return 1e-3 * geometry.energy.mean().item() + 2 * math.sqrt(cost * displacement.shape[1]) * geometry.error


def broken_identity(geometry: Geometry, end_time: float = 1.0) -> str | None:
    """Why this solve must not be trusted: path_energy ≠ transport_cost + straightness. None where they agree."""
    residual, tolerance = identity_residual(geometry, end_time).value, identity_tolerance(geometry)
    if abs(residual) <= tolerance:  # False for nan, too
        return None
    return (
        f"path_energy - transport_cost - straightness = {residual:.3g}, more than the {tolerance:.3g} that the "
        "reference solve explains: raise its number of steps"
    )
