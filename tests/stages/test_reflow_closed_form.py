"""A round of reflow against its closed form: from N(0, I) to N(m, diag(s²)) the exact flow carries z0 to m + s z0.

On these pairs z_t = t m + (1 − t + t s) z0, so that one velocity is right at each point, v(t, x) = m + (s − 1) z0 with
z0 = (x − t m) / (1 − t + t s); it is constant along its lines: S = 0, and E‖Z1 − Z0‖² = ‖m‖² + ‖s − 1‖².

A network misses v by ε, √(E‖v̂ − v‖²) over the path's points. Its own line from z0 then departs from the right one by δ with
δ' = e + (s − 1) δ / (1 − t + t s), so its velocity stays within K ε of m + (s − 1) z0, K = 1 + max |s − 1| / min(1, s): hence
S ≤ K² ε² and |√C − √C*| ≤ K ε on the same z0. SLACK is for ε over the flow's own points, not the path's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import Tensor
from toy_flows import flow, pairs_from

from fmbench.flow.velocity import Field
from fmbench.metrics import METRICS
from fmbench.metrics.base import Resources
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS
from fmbench.stages.flow import FlowSpec, Pairs, PairsSpec, velocity_field
from fmbench.stages.measure import evidence
from fmbench.stages.sample import ReferenceSpec, reference
from fmbench.stages.train import Trained, train
from fmbench.statistics import Estimate

N = 4000  # samples of the evaluation, and pairs
SLACK = 1.5
SMALL = {"name": "mlp", "width": 64, "depth": 2}


@dataclass(frozen=True)
class Round:
    """The first round after the oracle's flow to N(mean, diag(std²))."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @cached_property
    def laws(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.mean, dtype=torch.float64), torch.tensor(self.std, dtype=torch.float64)

    @property
    def k(self) -> float:
        _, s = self.laws
        return 1 + (s - 1).abs().max().item() / min(1.0, s.min().item())

    @cached_property
    def spec(self) -> FlowSpec:
        data = {"name": "gaussian-mixture", "means": [self.mean], "stds": [self.std]}
        settings = {"samples": 2**18, "batch": 256, "lr": 5e-3, "schedule": "cosine", "ema_samples": 2**13}
        first, student = flow(data=data, model="oracle"), flow(data=data, model=SMALL, **settings)
        drawn = PairsSpec(flow=first, n=N, solver=SOLVERS.build("rk4"), steps=64)
        return student.model_copy(update={"reflow": 1, "pairs": drawn})

    @cached_property
    def pairs(self) -> Pairs:
        assert self.spec.pairs is not None
        return pairs_from(self.spec.pairs, velocity_field(self.spec.pairs.flow, None))

    def trained(self, pairs: Pairs) -> Field:
        (outcome,) = train([self.spec], pairs=[pairs])
        assert isinstance(outcome, Trained)
        return velocity_field(self.spec, outcome.weights)

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        m, s = self.laws
        t = t[:, None]
        return m + (s - 1) * (x - t * m) / (1 - t + t * s)

    def misfit(self, field: Field) -> float:
        """ε² over fresh points of the path."""
        m, s = self.laws
        rng = generator("points of the closed form", *map(str, self.std))
        z0 = torch.randn(N, len(m), generator=rng, dtype=torch.float64)
        t = (torch.arange(N) + torch.rand(N, generator=rng, dtype=torch.float64)) / N
        x = t[:, None] * m + (1 - t + t * s[:, None]).T * z0
        with torch.no_grad():
            said = field(t, x.float()).double()
        return (said - self.velocity(t, x)).square().sum(1).mean().item()

    def measured(self, field: Field, pairs: Pairs, *metrics: str) -> list[Estimate]:
        spec = ReferenceSpec(flow=self.spec, n=N, batch=N, sample_seed=0)
        solved = reference(spec, field)
        nothing = Resources(solved.nfe, (0.0,), None)
        seen = evidence(spec, solved.geometry.z1, solved.geometry, nothing, field, solved.steps, pairs)
        return [METRICS.build(metric).measure(seen) for metric in metrics]


CASES = [Round((1.5,), (0.5,)), Round((1.0, -0.5), (0.6, 1.8))]
each = pytest.mark.parametrize("case", CASES, ids=["one dimension", "a diagonal Gaussian in two"])


@each
def test_the_pairs_are_those_of_the_exact_flow(case: Round) -> None:
    m, s = case.laws
    z0, z1, _ = case.pairs
    assert torch.allclose(z1.double(), m + s * z0.double(), atol=1e-4), "RK4 in 64 steps, float32"


@each
def test_a_round_is_straight_and_costs_what_optimal_transport_costs(case: Round) -> None:
    m, s = case.laws
    field = case.trained(case.pairs)
    misfit = case.misfit(field)
    bound = SLACK * case.k**2 * misfit
    curved = (2 - math.pi / 2) * s.sum().item()  # S of the flow that the pairs come from
    assert misfit < 1e-3 * (s - 1).square().sum(), "the network did not learn its pairs"
    assert bound < 0.01 * curved, "the fit leaves room for a round that straightens nothing"
    straightness, cost, loss, trained = case.measured(
        field, case.pairs, "straightness", "transport_cost", "minimal_loss", "train_coupling_cost"
    )
    assert 0 <= straightness.value <= bound
    exact = (m.square() + (s - 1).square()).sum().item()
    root = math.sqrt(exact)
    assert abs(math.sqrt(cost.value) - root) <= math.sqrt(bound) + 4 * cost.stderr / (2 * root)
    assert trained.value == pytest.approx(exact, abs=4 * trained.stderr)
    assert loss.value == pytest.approx(misfit, abs=4 * loss.stderr + 0.5 * misfit), "L* = 0: what is left is the misfit"


@each
def test_torn_pairs_are_noticed(case: Round) -> None:
    """A round trained on partners of others learns the curved flow of independent pairs anew."""
    torn = Pairs(case.pairs.z0, case.pairs.z1.roll(1, 0))
    field = case.trained(torn)
    _, s = case.laws
    assert case.misfit(field) > 0.01 * (s - 1).square().sum()
    (straightness,) = case.measured(field, torn, "straightness")
    assert straightness.value > 0.5 * (2 - math.pi / 2) * s.sum().item()
