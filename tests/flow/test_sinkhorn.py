"""Entropic couplings: the plan against POT's own and closed forms, its limits, and pairs that follow it."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from torch import Tensor

from fmbench.errors import Diverged, UserError
from fmbench.flow import COUPLINGS, couplings, sinkhorn
from fmbench.flow.couplings import MinibatchOT, Sinkhorn
from fmbench.flow.sinkhorn import TOLERANCE, entropic_plan
from fmbench.metrics.transport import squared


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=rng(seed))


@pytest.mark.parametrize("reg", [0.5, 2.0, 50.0])
def test_two_points_by_hand(reg: float) -> None:
    """Costs [[0, 1], [1, 0]]: the symmetric plan is ½ [[s, 1 − s], [1 − s, s]], s = 1 / (1 + exp(−1 / reg))."""
    x = torch.tensor([[0.0], [1.0]])
    s = 1 / (1 + math.exp(-1 / reg))
    expected = torch.tensor([[s, 1 - s], [1 - s, s]], dtype=torch.float64) / 2
    assert torch.allclose(entropic_plan(x, x, reg), expected, rtol=0, atol=TOLERANCE)


def test_two_pairs_of_points_far_apart() -> None:
    """Each pair's plan is that of the two points alone, though their costs differ by 1 in 1e8: single precision sees none."""
    x = torch.tensor([[-1e4, 0.0], [-1e4, 1.0], [1e4, 0.0], [1e4, 1.0]])
    s = 1 / (1 + math.exp(-1 / 2))
    two = torch.tensor([[s, 1 - s], [1 - s, s]], dtype=torch.float64) / 4
    assert torch.allclose(entropic_plan(x, x, 2.0), torch.block_diag(two, two), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("reg", [0.5, 2.0, 100.0])
def test_the_plan_is_the_log_domain_plan(d: int, reg: float) -> None:
    x0, x1 = normal(64, d, 1), 0.5 * normal(64, d, 2) + 3
    plan = entropic_plan(x0, x1, reg)
    weights = torch.full((64,), 1 / 64, dtype=torch.float64)
    judge = ot.bregman.sinkhorn_log(
        weights, weights, torch.cdist(x0.double(), x1.double()).square(), reg, numItermax=10**5, stopThr=1e-6
    )
    assert (plan - judge).abs().sum() < 10 * TOLERANCE
    assert torch.allclose(plan.sum(1), weights, rtol=1e-9)
    assert (plan.sum(0) - weights).abs().sum() <= TOLERANCE


def test_small_reg_tends_to_the_assignment() -> None:
    x0, x1 = normal(64, 2, 1), normal(64, 2, 2)
    _, best = MinibatchOT().pair(x0, x1, rng())
    i, j = Sinkhorn(reg=1e-4).pair(x0, x1, rng())
    assert torch.equal(i, torch.arange(64))
    assert (j == best).float().mean() > 0.9
    assert squared(x0[i], x1[j]).mean() == pytest.approx(squared(x0[i], x1[best]).mean().item(), rel=1e-3)


def test_large_reg_tends_to_independent() -> None:
    x0, x1 = normal(64, 2, 1), normal(64, 2, 2)
    assert torch.allclose(entropic_plan(x0, x1, 1e6), torch.full((64, 64), 1 / 64**2, dtype=torch.float64), rtol=1e-4)


def test_between_the_limits_cost_grows_and_pairs_repeat() -> None:
    x0, x1 = normal(256, 2, 1), normal(256, 2, 2)
    costs = torch.cdist(x0.double(), x1.double()).square()
    values = [(costs * entropic_plan(x0, x1, reg)).sum().item() for reg in (0.05, 0.5, 2.0, 20.0)]
    assert values == sorted(values)
    _, j = Sinkhorn(reg=1e6).pair(x0, x1, rng())
    assert len(j.unique()) / 256 == pytest.approx(1 - 1 / math.e, abs=0.06)  # three standard deviations


def follow(coupling: Sinkhorn, x0: Tensor, x1: Tensor, plan: Tensor) -> bool:
    """Pearson's χ² of 8,000 pairs of 8 points against the plan: 8 rows of 7 degrees of freedom."""
    stream, counts = rng(3), torch.zeros(8, 8, dtype=torch.float64)
    for _ in range(1000):
        i, j = coupling.pair(x0, x1, stream)
        counts[i, j] += 1
    expected = 8000 * plan
    chi_squared = ((counts - expected).square() / expected)[expected > 1].sum().item()
    return chi_squared < 56 + 5 * math.sqrt(2 * 56)


def test_pairs_follow_the_plan() -> None:
    x0, x1 = normal(8, 2, 1), normal(8, 2, 2)
    assert follow(Sinkhorn(reg=1.0), x0, x1, entropic_plan(x0, x1, 1.0))


@pytest.mark.parametrize("twin", ["uniform", "transposed", "halved reg"])
def test_broken_twins_are_noticed(twin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x0, x1 = normal(8, 2, 1), normal(8, 2, 2)
    plan = entropic_plan(x0, x1, 1.0)
    broken = {"uniform": torch.full_like(plan, 1 / 64), "transposed": plan.T, "halved reg": entropic_plan(x0, x1, 0.5)}
    monkeypatch.setattr(couplings, "entropic_plan", lambda *arguments: broken[twin])
    assert not follow(Sinkhorn(reg=1.0), x0, x1, plan)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_scale_and_offset_of_float32_data(scale: float, offset: float) -> None:
    """With reg in the data's own units² the plan is the same; an offset shared by both sides changes nothing."""
    x0, x1 = normal(128, 3, 1), normal(128, 3, 2)
    moved = [scale * (x + offset) for x in (x0, x1)]
    plan = entropic_plan(moved[0], moved[1], 0.5 * scale**2)
    assert (plan - entropic_plan(x0, x1, 0.5)).abs().sum() < 10 * TOLERANCE


def test_data_of_large_scale_with_a_small_reg() -> None:
    """Costs of 1e8 reg and more, where exp(−cost / reg) of the raw costs is 0 everywhere."""
    x0, x1 = 1e4 * normal(128, 3, 1), 1e4 * normal(128, 3, 2) + 1e5
    plan = entropic_plan(x0, x1, 2.0)
    _, best = MinibatchOT().pair(x0, x1, rng())
    assert plan[torch.arange(128), best].sum() > 0.99


def test_no_convergence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn, "_ITERATIONS", 2)
    with pytest.raises(RuntimeError, match=r"did not converge in 2 iterations for reg = 0\.01.*raise reg"):
        Sinkhorn(reg=0.01).pair(normal(64, 2, 1), normal(64, 2, 2), rng())


def test_an_assignment_that_stops_early_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinkhorn, "_MAX_SIMPLEX", 1)
    with (
        pytest.raises(RuntimeError, match=r"ot\.emd stopped before the optimum \(n = 64\)"),
        pytest.warns(UserWarning, match="numItermax"),
    ):
        entropic_plan(normal(64, 2, 1), normal(64, 2, 2), 2.0)


def test_a_plan_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ot.bregman, "sinkhorn_knopp", lambda a, b, costs, *_, **__: costs * math.nan)
    with pytest.raises(RuntimeError, match="did not converge"):
        entropic_plan(normal(8, 2, 1), normal(8, 2, 2), 2.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(bad: float) -> None:
    x0, x1 = normal(16, 2, 1), normal(16, 2, 2)
    x1[3, 1] = bad
    with pytest.raises(Diverged, match="not finite"):
        Sinkhorn().pair(x0, x1, rng())


def test_sides_of_different_size_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        Sinkhorn().pair(normal(4, 2, 0), normal(5, 2, 0), rng())


@pytest.mark.parametrize(("key", "value"), [("reg", 0), ("reg", -1.0), ("batch", 1), ("engine", "pot")])
def test_bad_parameters_are_user_errors(key: str, value: object) -> None:
    with pytest.raises(UserError, match=key):
        COUPLINGS.build({"name": "sinkhorn", key: value})
