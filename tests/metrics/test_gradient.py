"""The gradients of flow matching and of conditional flow matching: equal by theorem 2, and apart by what is known elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.errors import Skip
from fmbench.flow import PATHS
from fmbench.flow.oracles import MixtureVelocity
from fmbench.metrics import METRICS, Evidence
from fmbench.metrics.gradient import GradientGap, answer, drawn, gradient, of_squares, products
from fmbench.randomness import generator
from fmbench.statistics import Estimate, interval, mean

FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))
METRIC = METRICS.build({"name": "gradient_gap", "n": 8_000})
AFFINE = [path for path in map(PATHS.build, PATHS.names()) if path.affine]


def evidence(name: str = "rectified", trained: str | None = None) -> Evidence:
    """The exact velocity of one path beside the targets of the same, or of another one."""
    path = PATHS.build(name)
    means, stds = (torch.tensor([side], dtype=torch.float64) for side in (FLOW.mean, FLOW.std))
    oracle = MixtureVelocity(path, means, stds, torch.ones(1, dtype=torch.float64))
    return FLOW.evidence(100, path=PATHS.build(trained or name), oracle=oracle, end_time=path.end_time)


@pytest.mark.parametrize("path", AFFINE, ids=lambda path: path.label())
def test_on_every_path_the_gradients_are_equal(path) -> None:  # type: ignore[no-untyped-def]
    """Of an unsound path's targets, too: its regression is sound, its flow is not."""
    found = METRIC.measure(evidence(path.name))
    assert abs(found.value) < 5 * found.stderr
    assert found.stderr < 2e-3
    assert found.n == 8_000


def test_the_wrong_target_is_a_broken_twin() -> None:
    """(x1 − x0)/t against the velocity of the rectified path."""
    found = METRIC.measure(evidence(trained="over-time"))
    assert found.value > 0.1
    assert found.value > 10 * found.stderr


def test_a_known_gap() -> None:
    """Against w = 1.1 v the gap is ‖E Jᵀ(w − v)‖² / ‖E Jᵀ(F − w)‖², J the network's Jacobian: no target's noise in it."""
    seen, metric = FLOW.evidence(100), GradientGap(n=20_000)
    wrong = replace(seen, oracle=lambda t, x: 1.1 * FLOW.velocity_at(t, x))
    points = metric.points(wrong)
    t, x = torch.cat([p.t for p in points]), torch.cat([p.x for p in points])
    x, v = x.double(), FLOW.velocity_at(t, x.double())
    network = drawn(2, 16, 0)
    said = answer(network, x, t)
    sides = [gradient((said * w.detach()).sum(1).mean(), network) for w in (0.1 * v, said - 1.1 * v)]
    expected = (sides[0].square().sum() / sides[1].square().sum()).item()
    found = metric.measure(wrong)
    assert expected > 1e-3
    assert abs(found.value - expected) < 4 * found.stderr
    assert found.stderr < 0.2 * expected


def squared_norm(parts: Tensor) -> float:
    """The twin: ‖mean‖², in which the noise of the mean is left."""
    return parts.mean(0).square().sum().item()


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_the_squared_mean_is_unbiased_and_its_twin_is_not(size: float) -> None:
    """K = 20 parts in 10 dimensions of unit noise: the twin is off by 10/20."""
    rng, runs = generator("test squared mean"), 600
    drawn = size + torch.randn(runs, 20, 10, generator=rng, dtype=torch.float64)
    values = torch.stack([products(parts).mean() for parts in drawn])
    error = values.std().item() / runs**0.5
    assert values.mean().item() == pytest.approx(10 * size**2, abs=4 * error)
    twin = sum(map(squared_norm, drawn)) / runs
    assert twin == pytest.approx(10 * size**2 + 0.5, abs=4 * error)
    stderr = sum(2 * mean(products(parts)).stderr for parts in drawn) / runs
    assert 0.9 < stderr / values.std().item() < 1.6, "the jackknife is careful where the mean is 0"


def test_its_interval_covers_where_the_fields_differ() -> None:
    """Both gradients are estimated, from the same parts; the twin takes the bottom of the ratio as known."""
    rng, runs = generator("test gradients apart"), 1000
    b = 1 + 2 * torch.randn(runs, 64, 10, generator=rng, dtype=torch.float64)
    a = 0.5 + torch.randn(runs, 64, 10, generator=rng, dtype=torch.float64)
    found = [of_squares(*parts) for parts in zip(a, b, strict=True)]
    assert covered(found, 0.25) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / runs)
    errors = [2 * mean(products(x)).stderr / products(y).mean().item() for x, y in zip(a, b, strict=True)]
    assert covered([replace(e, stderr=s) for e, s in zip(found, errors, strict=True)], 0.25) < 0.9


def covered(found: list[Estimate], truth: float) -> float:
    return sum(low <= truth <= high for low, high in map(interval, found)) / len(found)


def test_what_it_cannot_be_asked_of() -> None:
    with pytest.raises(Skip, match="exact velocity"):
        METRIC.measure(FLOW.evidence(100, oracle=None))
    with pytest.raises(Skip, match="two parts"):
        GradientGap(n=3).measure(FLOW.evidence(100))


def test_one_product_of_two_parts_shows_no_spread() -> None:
    assert [GradientGap(n=n).measure(FLOW.evidence(100)).stderr for n in (4, 5)] == [math.inf] * 2
    assert 0 < GradientGap(n=6).measure(FLOW.evidence(100)).stderr < math.inf
