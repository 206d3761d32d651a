"""The likelihood under an exact flow is the data's own."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.data import DATA
from fmbench.data.toys import Normal
from fmbench.errors import Skip
from fmbench.metrics import likelihood
from fmbench.metrics.likelihood import NLL, backward, divergence_of, held_out

FLOW = GaussianFlow((1.0, -0.5), (0.5, 3.0))
ENTROPY = 0.5 * 2 * math.log(2 * math.pi * math.e) + math.log(0.5 * 3.0)


def check(metric: NLL) -> None:
    evidence = FLOW.evidence(2000)
    estimate, floor = metric.measure(evidence), metric.floor(evidence.data, 2000, evidence.seed)
    assert floor is not None
    assert abs(estimate.value - ENTROPY) < 4 * estimate.stderr
    assert estimate.value == pytest.approx(
        floor.value, abs=1e-4
    )  # the same held-out samples: only the solve is between
    assert estimate.stderr == pytest.approx(math.sqrt(1 / 2000), rel=0.1)  # sd of a normal's log density is √(D/2) = 1
    assert estimate.n == floor.n == 2000


def test_nll_of_an_exact_flow_is_the_entropy() -> None:
    check(NLL())


def test_a_twin_with_the_wrong_sign_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: object) -> tuple[Tensor, Tensor]:
        z0, divergence = backward(*arguments)
        return z0, -divergence

    monkeypatch.setattr(likelihood, "backward", wrong)
    with pytest.raises(AssertionError):
        check(NLL())


def test_a_worse_flow_has_a_higher_nll() -> None:
    """By the KL divergence between the Gaussians."""
    wrong = GaussianFlow((1.0, 0.5), (0.5, 3.0))
    evidence = FLOW.evidence(2000, velocity=wrong.velocity)
    gap = NLL().measure(evidence).value - NLL().measure(FLOW.evidence(2000)).value
    assert gap == pytest.approx(1.0**2 / (2 * 3.0**2), abs=4 / 3 / math.sqrt(2000))


def test_fourth_order_in_the_steps() -> None:
    evidence = FLOW.evidence(50, velocity=lambda t, x: FLOW.velocity(t, x.double()))
    coarse, fine, exact = (NLL(steps=steps).measure(evidence).value for steps in (8, 16, 400))
    coarse, fine = abs(coarse - exact), abs(fine - exact)
    assert coarse / fine > 10


def test_end_time() -> None:
    """v = x over [0, T] stretches by e^T: N(0, 1) becomes N(0, e^2T)."""
    evidence = GaussianFlow((0.0,), (1.0,)).evidence(500, velocity=lambda t, x: x, end_time=0.5)
    x = held_out(evidence.data, 500, evidence.seed).double()
    expected = (x**2 * math.exp(-1.0) / 2).mean().item() + 0.5 + 0.5 * math.log(2 * math.pi)
    assert NLL().measure(evidence).value == pytest.approx(expected, abs=1e-5)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = NLL(n=90, steps=10).measure(FLOW.evidence(100))
    monkeypatch.setattr(likelihood, "CHUNK", 7)
    part = NLL(n=90, steps=10).measure(FLOW.evidence(100))
    assert (part.value, part.stderr) == pytest.approx((whole.value, whole.stderr), rel=1e-6)
    assert part.n == 90


def test_divergence_is_the_jacobians_trace() -> None:
    def field(t: float | Tensor, x: Tensor) -> Tensor:
        a, b, c = x.unbind(1)
        return torch.stack([a * b + t, torch.sin(b) * c, torch.ones_like(a)], dim=1)  # the last one does not see x

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    v, divergence = divergence_of(field, 0.3, x)
    assert torch.equal(v, field(0.3, x))
    assert torch.allclose(divergence, x[:, 1] + x[:, 1].cos() * x[:, 2])
    images, _ = divergence_of(lambda t, x: x**2, 0.0, x.reshape(5, 1, 3, 1))
    assert images.shape == (5, 1, 3, 1)
    with torch.no_grad():
        assert torch.equal(divergence_of(field, 0.3, x)[1], divergence)


def test_a_field_without_gradient_is_an_error_not_a_zero() -> None:
    @torch.no_grad()
    def frozen(t: float | Tensor, x: Tensor) -> Tensor:
        return 2 * x

    with pytest.raises(RuntimeError, match="does not require grad"):
        divergence_of(frozen, 0.0, torch.ones(2, 2))


def test_what_cannot_be_measured_is_skipped_with_its_reason() -> None:
    with pytest.raises(Skip, match="velocity"):
        NLL().measure(FLOW.evidence(5, velocity=None))
    with pytest.raises(Skip, match="D = 65"):
        NLL().measure(FLOW.evidence(5, data=Normal(dims=(65,))))
    assert NLL().floor(DATA.build("moons"), 10, 0) is None


def test_digits_are_dequantised_within_their_level() -> None:
    digits = DATA.build("digits")
    x, plain = held_out(digits, 300, seed=2), digits.take("test", 300, seed=2)
    gap = (x - plain) * 8  # in levels
    assert gap.abs().max() <= 0.5 + 1e-6
    assert abs(gap.mean().item()) < 5 * math.sqrt(1 / 12 / gap.numel())
    assert gap.var().item() == pytest.approx(1 / 12, rel=0.05)
    assert torch.equal(held_out(digits, 300, seed=2), x)
