"""The closed forms of one Gaussian's flow: pinned numbers, the derivations' special cases, and the reference solve."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fmbench.data import DATA
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.gaussian import GaussianFlow, mean_norm
from fmbench.flow.paths import Path, Rectified, Schedule
from fmbench.metrics import METRICS, Exact, truth
from fmbench.randomness import generator


def flow(path: str, mean: tuple[float, ...], variances: tuple[float, ...]) -> GaussianFlow:
    return GaussianFlow(
        PATHS.build(path),
        torch.tensor(mean, dtype=torch.float64),
        torch.tensor(variances, dtype=torch.float64).sqrt(),
    )


@pytest.mark.parametrize(("path", "bend"), [("rectified", 1.5022), ("vp-cosine", 0.5936)])
def test_pinned_straightness(path: str, bend: float) -> None:
    space = flow(path, (1, -0.5, 0.2), (0.25, 1, 4))
    assert space.straightness() == pytest.approx(bend, abs=5e-5)
    assert space.transport_cost() == pytest.approx(1.29 + 0.25 + 1, abs=1e-12)
    assert space.w2_squared() == pytest.approx(space.transport_cost(), abs=1e-12)
    assert space.path_energy() == pytest.approx(space.transport_cost() + space.straightness(), abs=1e-12)
    assert space.nll() == pytest.approx(1.5 * math.log(2 * math.pi * math.e), abs=1e-12)  # determinant 1


def test_one_dimension() -> None:
    """N(0, 1) → N(m, s²), rectified: L* = πs/2, S = (2 − π/2)s, C_train = m² + 1 + s² = L* + A."""
    m, s = 1.3, 0.6
    line = flow("rectified", (m,), (s * s,))
    assert line.minimal_loss() == pytest.approx(math.pi * s / 2, abs=1e-12)
    assert line.straightness() == pytest.approx((2 - math.pi / 2) * s, abs=1e-12)
    assert line.minimal_loss() + line.path_energy() == pytest.approx(m * m + 1 + s * s, abs=1e-12)


def test_mean_norm() -> None:
    one = torch.ones(1, dtype=torch.float64)
    assert mean_norm(0 * one, one).item() == pytest.approx(math.sqrt(2 / math.pi), abs=1e-12)
    assert mean_norm(-3 * one, 0 * one).item() == pytest.approx(3, abs=1e-12)
    assert mean_norm(0 * one, 0 * one).item() == 0, "a coordinate that does not move"
    m, s, n = torch.tensor([1.0, 2.0, 0.1]), torch.tensor([0.5, 0.0, 3.0]), 200_000
    drawn = (m + s * torch.randn(n, 3, generator=generator("norm"))).norm(dim=1)
    exact = mean_norm(m.double(), s.double()).item()
    assert abs(drawn.mean().item() - exact) < 5 * drawn.std().item() / math.sqrt(n)


LINE = {"name": "gaussian-mixture", "means": [[1.5]], "stds": [[0.6]]}


@pytest.mark.parametrize("path", ["rectified", "vp-cosine", "fm-ot"])
def test_quadrature_agrees_with_the_closed_forms(path: str) -> None:
    data = DATA.build(LINE)
    line = flow(path, (1.5,), (0.36,))
    of_u, of_v = truth._energies(PATHS.build(path), data)
    assert of_v == pytest.approx(line.path_energy(), abs=1e-8)
    assert of_u - of_v == pytest.approx(line.minimal_loss(), abs=1e-8)
    assert truth._entropy(data) == pytest.approx(line.nll(), abs=1e-8)
    traced, near = truth._traced(PATHS.build(path), data), 1e-4 if path == "fm-ot" else 1e-6
    for name in ("transport_cost", "straightness", "path_energy", "one_step_error"):
        assert getattr(traced, name)() == pytest.approx(getattr(line, name)(), abs=near), name
    for name in ("transport_cost_l1", "transport_cost_l2", "path_length"):  # of norms, which have a kink at 0
        assert getattr(traced, name)() == pytest.approx(getattr(line, name)(), rel=1e-3), name


def test_true_values_of_what_is_held_against_transport() -> None:
    """The rectified flow's coupling is the optimal one: (A − W2²) / W2² = S / C."""
    known = Exact(
        PATHS.build("rectified"),
        DATA.build({"name": "normal", "dims": [1]}),
        DATA.build(LINE),
        COUPLINGS.build("independent"),
    )
    least = 1.5**2 + 0.4**2
    assert METRICS.build("w2_squared").true_value(known) == pytest.approx(least, abs=1e-12)
    assert METRICS.build("npe").true_value(known) == pytest.approx((2 - math.pi / 2) * 0.6 / least, abs=1e-12)


class Bulging(Rectified):
    """A bridge of no width at its ends."""

    name = "bulging"
    affine = False

    def schedule(self, t: torch.Tensor) -> Schedule:
        return replace(super().schedule(t), gamma=t * (1 - t), d_gamma=1 - 2 * t)


def test_a_path_that_ends_early_and_one_whose_start_holds_data() -> None:
    """N(0, 1) → N(m, s²). Cut at ½: ∫₀^½ s²/(t²s² + (1 − t)²) dt = s atan s, Z_½ = m/2 + ½√(1 + s²) ε. On `ve`, with σ from 2 to
    0.1, (x − m)/s_t is kept: Z1 = m + r (Z0 − m), r² = (s² + 0.1²)/(s² + 2²), from Z0 = 2 ε.
    """
    m, s = 1.3, 0.6
    mean, std = torch.tensor([[m], [s]], dtype=torch.float64)
    cut = GaussianFlow(Cut(), mean, std)
    assert cut.minimal_loss() == pytest.approx(2 * s * math.atan(s), abs=1e-12)
    assert cut.one_step_error() == pytest.approx((0.5 - 0.5 * math.sqrt(1 + s * s)) ** 2, abs=1e-12)
    ve = GaussianFlow(PATHS.build({"name": "ve", "sigma_min": 0.1, "sigma_max": 2}), mean, std)
    r2 = (s * s + 0.1**2) / (s * s + 2**2)
    end, width = m * (1 - math.sqrt(r2)), 2 * math.sqrt(r2)
    assert ve.w2_squared() == pytest.approx(m * m + (2 - s) ** 2, abs=1e-12)
    assert ve.transport_cost() == pytest.approx(end**2 + (width - 2) ** 2, abs=1e-12)
    expected = 0.5 * math.log(2 * math.pi * width**2) + (s * s + (m - end) ** 2) / (2 * width**2)
    assert ve.nll() == pytest.approx(expected, abs=1e-12)


class Cut(Rectified):
    name = "cut"
    end_time = 0.5


@pytest.mark.parametrize(
    "path", [Bulging(), Cut(), PATHS.build({"name": "fm-ot", "sigma_min": 0.1}), PATHS.build("over-time")]
)
def test_a_mixture_s_flow_is_known_where_it_runs_from_source_to_data(path: Path) -> None:
    """And its target is x_t's own velocity, all of it."""
    mixture = DATA.build({"name": "gaussian-mixture", "means": [[-2.0], [1.0]], "stds": [0.3, 0.5]})
    for along, known in ((PATHS.build("rectified"), True), (path, False)):
        flow = Exact(along, DATA.build({"name": "normal", "dims": [1]}), mixture, COUPLINGS.build("independent"))
        assert truth.is_solved(flow) is known
        assert (truth.minimal_loss(flow) is not None) is known
        assert (truth.nll(flow) is not None) is known


@pytest.mark.parametrize("data", ["moons", "digits"])
def test_what_is_not_known_has_no_true_value(data: str) -> None:
    law = DATA.build(data)
    known = Exact(
        PATHS.build("rectified"), DATA.build({"name": "normal", "dims": law.shape}), law, COUPLINGS.build("independent")
    )
    for name in ("transport_cost", "nll", "straightness", "path_energy", "minimal_loss", "npe", "path_length_ratio"):
        metric = METRICS.build(name)
        assert (metric.true_value(known), metric.has_true_value(known)) == (None, False)


def test_no_true_value_for_another_coupling() -> None:
    law = DATA.build(LINE)
    other = Exact(
        PATHS.build("rectified"), DATA.build({"name": "normal", "dims": [1]}), law, COUPLINGS.build("minibatch-ot")
    )
    names = ("transport_cost", "train_coupling_cost", "minimal_loss", "nll")
    assert [METRICS.build(name).true_value(other) for name in names] == [None] * 4
