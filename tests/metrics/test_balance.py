"""The balance sheet: known answers for known misfits, twins that must fail."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.data import DATA
from fmbench.errors import Skip
from fmbench.flow import COUPLINGS, PATHS
from fmbench.metrics import METRICS, Evidence
from fmbench.metrics.balance import (
    BalanceResidual,
    IdentityResidual,
    MinimalLoss,
    ModelError,
    Point,
    linear,
)
from fmbench.metrics.coupling import TrainCouplingCost
from fmbench.metrics.geometry import OneStepError, PathLengthRatio, StraightnessNormalized
from fmbench.stages.measure import coupled
from fmbench.statistics import Estimate, mean, ratio

FLOW = GaussianFlow((1.5,), (0.6,))  # L* = π s / 2, C_train = m² + 1 + s²
N = 4000


def off(by: float) -> Evidence:
    """The exact field plus a constant."""
    return FLOW.evidence(N, velocity=lambda t, x: FLOW.velocity_at(t, x) + by, oracle=FLOW.velocity_at)


def close(estimate: Estimate, value: float) -> None:
    assert 0 < estimate.stderr < 0.1
    assert abs(estimate.value - value) < 4 * estimate.stderr


def test_model_error_of_a_constant_is_its_square() -> None:
    estimate = ModelError().measure(off(0.3))
    assert estimate.value == pytest.approx(0.09, rel=1e-5)
    assert estimate.n == N
    assert ModelError().measure(off(0.0)).value == 0
    with pytest.raises(Skip, match="exact velocity, which is not known"):
        ModelError().measure(FLOW.evidence(5, oracle=None))


def test_model_error_of_a_known_tilt() -> None:
    """v̂ = v* + x_t: E x_t² = t² (m² + s²) + (1 − t)², whose mean is (m² + s² + 1) / 3."""
    seen = FLOW.evidence(N, velocity=lambda t, x: FLOW.velocity_at(t, x) + x, oracle=FLOW.velocity_at)
    close(ModelError().measure(seen), (1.5**2 + 0.6**2 + 1) / 3)


def test_model_error_is_an_integral_up_to_the_end_time() -> None:
    assert ModelError().measure(replace(off(0.3), end_time=0.5)).value == pytest.approx(0.5 * 0.09, rel=1e-5)


def test_closed_forms_and_what_a_misfit_adds() -> None:
    close(MinimalLoss().measure(off(0.0)), math.pi * 0.6 / 2)
    close(MinimalLoss().measure(off(0.5)), math.pi * 0.6 / 2 + 0.25)
    close(TrainCouplingCost().measure(off(0.0)), 1.5**2 + 1 + 0.6**2)
    close(BalanceResidual().measure(off(0.0)), 0.0)
    close(BalanceResidual().measure(off(0.5)), -0.25)


def test_the_pairs_are_shared() -> None:
    """Taken as independent, C_train and L* would give a wider error than their difference has."""
    seen = off(0.0)
    cost, loss = TrainCouplingCost(n=N).measure(seen), MinimalLoss().measure(seen)
    energy = mean(seen.geometry.energy)
    apart = math.hypot(cost.stderr, loss.stderr, energy.stderr)
    both = BalanceResidual().measure(seen)
    assert both.value == pytest.approx(cost.value - loss.value - energy.value, abs=1e-6)
    assert both.stderr < apart


@pytest.mark.parametrize("metric", [BalanceResidual(), MinimalLoss()], ids=lambda m: m.name)
def test_pairs_of_one_minibatch_are_not_taken_for_independent(metric: BalanceResidual) -> None:
    """N(0, 1) to N(3, 1): transport makes u = 3 but for an offset that a whole minibatch shares."""
    flow, coupling = GaussianFlow((3.0,), (1.0,)), COUPLINGS.build("minibatch-ot")
    seen = []
    for seed in range(24):
        draw = coupled(flow.data, DATA.build({"name": "normal", "dims": [1]}), coupling, 64, seed)
        known = {
            "coupling": coupling,
            "train_batch": 64,
            "coupled": draw,
            "velocity": lambda t, x: torch.full_like(x, 3),
        }
        seen.append(metric.measure(flow.evidence(512, seed, **known)))
    spread = torch.tensor([e.value for e in seen]).std().item()
    stated = sum(e.stderr for e in seen) / len(seen)
    assert 0.5 < spread / stated < 1.7, "24 seeds of 8 minibatches know the spread to about 20 %"
    with pytest.raises(Skip, match="no finite variance"):
        MinimalLoss().measure(flow.evidence(10, path=PATHS.build("sb-cfm")))


def test_times_fill_their_strata_and_every_minibatch_sees_all_of_them() -> None:
    """The mean of 64 uniform times is known to 0.29 / √64; the first eighth of the strata would have 1/16."""
    coupling = COUPLINGS.build("minibatch-ot")
    draw = coupled(FLOW.data, DATA.build({"name": "normal", "dims": [1]}), coupling, 64, 0)
    for known in ({}, {"coupling": coupling, "train_batch": 64, "coupled": draw}):
        t = torch.cat([points.t for points in MinimalLoss().points(FLOW.evidence(512, **known))])
        assert torch.equal((512 * t).floor().sort().values, torch.arange(512, dtype=torch.float64))
    assert (t.reshape(8, 64).mean(1) - 0.5).abs().max() < 5 * math.sqrt(1 / 12 / 64)


def test_no_more_pairs_are_asked_for_than_a_round_has() -> None:
    z0 = torch.linspace(-1, 1, 100)[:, None]
    draw = coupled(FLOW.data, DATA.build("normal"), COUPLINGS.build("independent"), 64, 0, (z0, z0 + 1))
    known = {"fixed": 100, "coupled": draw, "velocity": lambda t, x: torch.ones_like(x)}
    found = MinimalLoss().measure(FLOW.evidence(500, **known))
    assert (found.value, found.n) == (pytest.approx(0, abs=1e-12), 100)


def test_identity_residual_sees_a_wrong_energy() -> None:
    assert abs(IdentityResidual().measure(off(0.0)).value) < 1e-5
    geometry = FLOW.geometry(N)
    wrong = FLOW.evidence(N, geometry=type(geometry)(**{**vars(geometry), "energy": 1.1 * geometry.energy}))
    estimate = IdentityResidual().measure(wrong)
    assert estimate.value == pytest.approx(0.1 * geometry.energy.mean().item(), rel=1e-3)


def test_only_straight_interpolation_has_a_balance() -> None:
    assert [name for name in ("rectified", "fm-ot", "vp-cosine", "ve", "icfm") if linear(PATHS.build(name))] == [
        "rectified"
    ]
    assert linear(PATHS.build({"name": "fm-ot", "sigma_min": 0}))
    with pytest.raises(Skip, match="not on path 'vp-cosine'"):
        BalanceResidual().measure(FLOW.evidence(5, path=PATHS.build("vp-cosine")))


class Unsquared(ModelError):
    def measure(self, evidence: Evidence) -> Estimate:
        right = super().measure(evidence)
        return Estimate(math.sqrt(right.value), right.stderr, right.n)


class OtherPairs(MinimalLoss):
    """Points of one pairing, targets of another."""

    def points(self, evidence: Evidence) -> list[Point]:
        return [points._replace(u=points.u.roll(1, 0)) for points in super().points(evidence)]


class Added(BalanceResidual):
    def measure(self, evidence: Evidence) -> Estimate:
        right = super().measure(evidence)
        return Estimate(right.value + 2 * evidence.geometry.energy.mean().item(), right.stderr, right.n)


class Rooted(TrainCouplingCost):
    def measure(self, evidence: Evidence) -> Estimate:  # type: ignore[override]
        x0, x1 = evidence.coupled(self.n)
        return mean((x1 - x0).norm(dim=1))


@pytest.mark.parametrize(
    ("twin", "value"),
    [(Unsquared(), 0.09), (OtherPairs(), math.pi * 0.3 + 0.09), (Added(), -0.09), (Rooted(), 1.5**2 + 1 + 0.6**2)],
    ids=lambda x: type(x).__name__ if not isinstance(x, float) else None,
)
def test_broken_twins_are_rejected(twin: TrainCouplingCost, value: float) -> None:
    with pytest.raises(AssertionError):
        close(twin.measure(off(0.3)), value)


def test_costs_of_a_known_displacement() -> None:
    """Displacements (3, −4): ‖·‖₁ = 7, ‖·‖ = 5, ‖·‖² = 25, ‖·‖^1.5 = 5^1.5."""
    flow = GaussianFlow((0.0, 0.0), (1.0, 1.0))
    geometry = flow.geometry(10)
    moved = type(geometry)(**{**vars(geometry), "z1": geometry.z0 + torch.tensor([3.0, -4.0])})
    seen = flow.evidence(10, geometry=moved)
    expected = {
        "transport_cost": 25,
        "transport_cost_l1": 7,
        "transport_cost_l2": 5,
        "transport_cost_power": 5**1.5,
    }
    for name, value in expected.items():
        assert METRICS.build(name).measure(seen).value == pytest.approx(value, rel=1e-6)


class MeanOfRatios(PathLengthRatio):
    """No finite variance where displacements vanish."""

    def measure(self, evidence: Evidence) -> Estimate:
        return mean(evidence.geometry.length / evidence.geometry.displacement.norm(dim=1))


class OverEnergy(StraightnessNormalized):
    def measure(self, evidence: Evidence) -> Estimate:
        return ratio(evidence.geometry.straightness, evidence.geometry.energy)


class FromTheEnd(OneStepError):
    def measure(self, evidence: Evidence) -> Estimate:
        return mean((evidence.geometry.start_velocity - evidence.geometry.displacement).norm(dim=1))


@pytest.mark.parametrize(
    ("right", "twin", "value"),
    [
        (StraightnessNormalized(), OverEnergy(), (2 - math.pi / 2) * 0.6 / (1.5**2 + 0.4**2)),
        (OneStepError(), FromTheEnd(), 0.6**2),
    ],
    ids=["OverEnergy", "FromTheEnd"],
)
def test_twins_of_the_geometry(right: OneStepError, twin: OneStepError, value: float) -> None:
    close(right.measure(off(0.0)), value)
    with pytest.raises(AssertionError):
        close(twin.measure(off(0.0)), value)


def test_a_twin_of_path_length_ratio() -> None:
    """With mean m and deviation s → the ratio of means is E∫|m + ṡε| dt / E|m + (s − 1)ε|, by the closed form."""
    from fmbench.flow.gaussian import GaussianFlow as Exact
    from fmbench.flow.gaussian import mean_norm

    exact = Exact(PATHS.build("rectified"), torch.tensor([0.5]).double(), torch.tensor([2.0]).double())
    value = exact.path_length() / mean_norm(*exact.displacement).item()
    seen = GaussianFlow((0.5,), (2.0,)).evidence(N)
    close(PathLengthRatio().measure(seen), value)
    with pytest.raises(AssertionError):
        close(MeanOfRatios().measure(seen), value)
