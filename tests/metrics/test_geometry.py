"""The geometry's numbers against closed forms for one Gaussian."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.metrics import METRICS, Evidence, Geometry, Metric
from fmbench.metrics.balance import IdentityResidual
from fmbench.metrics.geometry import (
    NPE,
    PathEnergy,
    Straightness,
    W2Squared,
    broken_identity,
    identity_residual,
    identity_tolerance,
)
from fmbench.statistics import Estimate

LINE = GaussianFlow((1.5,), (0.6,))  # one dimension: C = m² + (s − 1)², S = (2 − π/2) s
SPACE = GaussianFlow((1.0, -0.5, 0.2), (0.5, 1.0, 2.0))  # S = 1.5022 for the rectified path
COST = {LINE: 1.5**2 + 0.4**2, SPACE: 1.29 + 0.5**2 + 1.0**2}
BEND = {LINE: (2 - math.pi / 2) * 0.6, SPACE: 1.5022}
START = {LINE: 0.6**2, SPACE: 0.5**2 + 1.0**2 + 2.0**2}  # Z0 + v(0, Z0) = μ, and Z1 = μ + σ Z0
N = 4000


def expected(flow: GaussianFlow) -> dict[str, float]:
    cost, bend = COST[flow], BEND[flow]
    return {
        "transport_cost": cost,
        "straightness": bend,
        "path_energy": cost + bend,
        "straightness_normalized": bend / cost,
        "one_step_error": START[flow],
        "w2_squared": cost,
        "npe": bend / cost,
    }


def check(metric: Metric, flow: GaussianFlow) -> None:
    estimate = metric.measure(flow.evidence(N))
    bias = 0.05 if len(flow.mean) == 3 and metric.name in ("w2_squared", "npe") else 0.0  # of W2², order n^(−2/3)
    assert 0 < estimate.stderr < 0.1 * expected(flow)[metric.name] + 0.05
    assert abs(estimate.value - expected(flow)[metric.name]) < 4 * estimate.stderr + bias


@pytest.mark.parametrize("flow", [LINE, SPACE], ids=["1-D", "3-D"])
@pytest.mark.parametrize("name", sorted(expected(LINE)))
def test_closed_form(name: str, flow: GaussianFlow) -> None:
    check(METRICS.build(name), flow)


def test_npe_is_the_couplings_excess_and_the_curvature() -> None:
    """(C_gen − W2²)/W2² + S/W2² = A/W2² − 1, of the same samples: to the identity's own residual."""
    names = ("npe", "transport_cost", "straightness", "path_energy", "w2_squared")
    npe, cost, bend, energy, least = (METRICS.build(name).measure(SPACE.evidence(500)).value for name in names)
    assert npe == pytest.approx(energy / least - 1, rel=1e-12)
    assert npe == pytest.approx((cost - least) / least + bend / least, rel=1e-4)


def test_npe_s_error_is_that_of_a_quotient() -> None:
    """Of independent A and W²: √(σ_A² + (A/W²)² σ_W²) / W²."""
    seen = SPACE.evidence(500)
    npe, energy, least = (METRICS.build(name).measure(seen) for name in ("npe", "path_energy", "w2_squared"))
    both = math.hypot(energy.stderr, energy.value / least.value * least.stderr)
    assert npe.stderr == pytest.approx(both / least.value, rel=1e-12)


class Unsquared(Straightness):
    def per_sample(self, geometry: Geometry) -> torch.Tensor:
        return geometry.straightness.sqrt()


class ChordEnergy(PathEnergy):
    def per_sample(self, geometry: Geometry) -> torch.Tensor:
        return geometry.displacement.square().sum(1)


class Rooted(W2Squared):
    def measure(self, evidence: Evidence) -> Estimate:
        right = super().measure(evidence)
        return Estimate(math.sqrt(right.value), right.stderr, right.n)


class AgainstItself(NPE):
    def w2_squared(self, evidence: Evidence) -> Estimate:
        return super().w2_squared(dataclasses.replace(evidence, data=GaussianFlow((0.0,) * 3, (1.0,) * 3).data))


@pytest.mark.parametrize(
    "twin", [Unsquared(), ChordEnergy(), Rooted(), AgainstItself()], ids=lambda t: type(t).__name__
)
def test_broken_twins_are_rejected(twin: Metric) -> None:
    with pytest.raises(AssertionError):
        check(twin, SPACE)


def test_path_length_ratio() -> None:
    """A path that never turns back has length = chord; one dimension with μ = 0 turns back, by a known amount."""
    straight = GaussianFlow((5.0,), (1e-6,)).evidence(500)
    assert METRICS.build("path_length_ratio").measure(straight).value == pytest.approx(1, abs=1e-6)
    # s falls from 1 to its minimum σ/√(1 + σ²), then rises to σ: path |z0| (1 + σ − 2 minimum), chord |z0| |σ − 1|
    sigma = 2.0
    estimate = METRICS.build("path_length_ratio").measure(GaussianFlow((0.0,), (sigma,)).evidence(500))
    assert estimate.value == pytest.approx((1 + sigma - 2 * sigma / math.sqrt(1 + sigma**2)) / (sigma - 1), rel=1e-3)
    assert estimate.stderr < 1e-9  # every sample has the same ratio, and the ratio of means knows it


@pytest.mark.parametrize("flow", [LINE, SPACE], ids=["1-D", "3-D"])
def test_energy_is_cost_plus_straightness(flow: GaussianFlow) -> None:
    geometry = flow.geometry(N)
    assert abs(identity_residual(geometry).value) < 1e-5 * geometry.energy.mean()
    assert broken_identity(geometry) is None


@pytest.mark.parametrize("factor", [1.02, 0.98, math.nan])
def test_a_broken_solve_is_seen(factor: float) -> None:
    geometry = SPACE.geometry(N)
    wrong = dataclasses.replace(geometry, energy=factor * geometry.energy)
    assert "more than" in (broken_identity(wrong) or "")
    explained = dataclasses.replace(wrong, error=0.05)  # the solve itself says that it is this far off
    assert (broken_identity(explained) is None) == math.isfinite(factor)


@pytest.mark.parametrize(("share", "seen"), [(0.0008, False), (0.0012, True)])
def test_quadrature_may_miss_a_thousandth_of_the_energy(share: float, seen: bool) -> None:
    geometry = SPACE.geometry(N)
    wrong = dataclasses.replace(geometry, energy=(1 + share) * geometry.energy)
    assert (broken_identity(wrong) is not None) == seen


def test_the_tolerance_is_what_wrong_ends_do_at_worst() -> None:
    """Ends off by δ = c (Z1 − Z0), the worst direction: A − C' − S' = −2 E⟨Z1 + δ − Z0, δ⟩ = −2 √C' √(E‖δ‖²)."""
    geometry, c = SPACE.geometry(500), 0.1
    chord = geometry.displacement
    cost = chord.square().sum(1)
    wrong = dataclasses.replace(
        geometry,
        z1=geometry.z0 + (1 + c) * chord,
        straightness=geometry.straightness + c**2 * cost,  # ∫‖(1 + c) chord − v‖² dt, where ∫v dt = chord
        error=c * math.sqrt(cost.mean().item() / 3),
    )
    residual = identity_residual(wrong)
    assert residual.value == pytest.approx(-2 * c * (1 + c) * cost.mean().item(), rel=1e-3)
    explained = identity_tolerance(wrong) - 1e-3 * wrong.energy.mean().item()
    assert explained == pytest.approx(-residual.value, rel=1e-3)
    stated = IdentityResidual().measure(SPACE.evidence(500, geometry=wrong))
    assert stated.stderr == pytest.approx(math.hypot(residual.stderr, residual.value), rel=1e-3)


def test_identity_over_a_shorter_time() -> None:
    """Over [0, T], for a velocity that is constant along each path: A = C/T, S = (1 − T)² C/T."""
    end_time, step = 0.5, torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cost = step.square().sum(1)
    z0, chord = torch.zeros_like(step), cost.sqrt()
    geometry = Geometry(z0, step, step / end_time, cost / end_time, (1 - end_time) ** 2 * cost / end_time, chord, 0.0)
    assert abs(identity_residual(geometry, end_time).value) < 1e-12
    assert broken_identity(geometry, end_time) is None
    assert broken_identity(geometry) is not None
    evidence = SPACE.evidence(100, geometry=geometry, end_time=end_time)
    assert METRICS.build("one_step_error").measure(evidence).value == pytest.approx(0, abs=1e-12)


def test_w2_squared_is_solved_once_for_the_same_samples() -> None:
    from fmbench.metrics.transport import _exact_transport

    evidence = SPACE.evidence(300, seed=77)
    _exact_transport.cache_clear()
    W2Squared().measure(evidence)
    NPE().measure(evidence)
    assert (_exact_transport.cache_info().misses, _exact_transport.cache_info().hits) == (1, 1)
    W2Squared(n=200).measure(evidence)
    assert _exact_transport.cache_info().misses == 2
