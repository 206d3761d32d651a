"""The likelihood under an exact flow is the data's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.data import DATA
from fmbench.data.toys import Normal
from fmbench.errors import Skip
from fmbench.flow.velocity import Velocity
from fmbench.metrics import likelihood
from fmbench.metrics.likelihood import NLL, Divergence, backward, divergence_of, held_out, hutchinson, of_probes
from fmbench.models import MODELS
from fmbench.statistics import mean

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


def test_fourth_order_where_the_divergence_depends_on_the_state() -> None:
    """Of an affine velocity it does not, and stages in the wrong order are not seen."""
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coarse, fine, exact = (
        backward(lambda t, z: torch.sin(z @ A.double().T * (1 + t)), x, times)[1]
        for times in (torch.linspace(0, 1, steps + 1, dtype=torch.float64) for steps in (8, 16, 400))
    )
    assert (coarse - exact).norm() / (fine - exact).norm() > 10


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
    assert torch.allclose(divergence[:, 0], x[:, 1] + x[:, 1].cos() * x[:, 2])
    images, _ = divergence_of(lambda t, x: x**2, 0.0, x.reshape(5, 1, 3, 1))
    assert images.shape == (5, 1, 3, 1)
    with torch.no_grad():
        assert torch.equal(divergence_of(field, 0.3, x)[1], divergence)


def test_a_field_without_gradient_is_an_error_not_a_zero() -> None:
    @torch.no_grad()
    def frozen(t: float | Tensor, x: Tensor) -> Tensor:
        return 2 * x

    for divergence in (divergence_of, hutchinson(torch.ones(2, 1, 2))):
        with pytest.raises(RuntimeError, match=r"no gradient passes through the velocity.* without torch\.no_grad"):
            divergence(frozen, torch.tensor(0.0), torch.ones(2, 2))


def test_what_cannot_be_measured_is_skipped_with_its_reason() -> None:
    with pytest.raises(Skip, match="velocity"):
        NLL().measure(FLOW.evidence(5, velocity=None))
    assert NLL().floor(DATA.build("moons"), 10, 0) is None


def test_digits_are_dequantised_within_their_level() -> None:
    digits = DATA.build("digits")
    x, plain = held_out(digits, 300, seed=2), digits.take("test", 300, seed=2)
    gap = (x - plain) * 8  # in levels
    assert gap.abs().max() <= 0.5 + 1e-6
    assert abs(gap.mean().item()) < 5 * math.sqrt(1 / 12 / gap.numel())
    assert gap.var().item() == pytest.approx(1 / 12, rel=0.05)
    assert torch.equal(held_out(digits, 300, seed=2), x)


# A field that mixes dimensions: div is tr A, whatever x; e·A e is not, probe by probe.
A = torch.tensor([[0.3, 0.8], [-0.5, 0.1]])


def mixing(t: float | Tensor, x: Tensor) -> Tensor:
    return x @ A.T


def mixed(divergence: str, **parameters: object) -> NLL:
    return NLL(steps=8, divergence=divergence, **parameters)


def test_exact_divergence_of_a_linear_field() -> None:
    """x over [0, 1] grows by e^A: log p1(x) = log p0(e^(−A) x) − tr A."""
    evidence = FLOW.evidence(400, velocity=mixing)
    x = held_out(evidence.data, 400, evidence.seed).double()
    z0 = x @ torch.linalg.matrix_exp(-A.double()).T
    expected = (0.5 * z0.square().sum(1) + math.log(2 * math.pi)).mean().item() + 0.4
    assert mixed("exact").measure(evidence).value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("probes", [1, 3])
def test_hutchinson_is_unbiased_within_the_error_of_its_probes(noise: str, probes: int) -> None:
    """On the same data the probes alone part it from the exact value: var(e·A e) = (0.8 − 0.5)² for Rademacher's."""
    n = 2000
    evidence = FLOW.evidence(n, velocity=mixing)
    exact = mixed("exact").likelihood(evidence)
    guess = mixed("hutchinson", probes=probes, noise=noise).likelihood(evidence)
    gap = mean(guess.log_density - exact.log_density)
    symmetric = 0.5 * (A + A.T)
    variance = 2 * symmetric.square().sum().item() - (
        2 * symmetric.diag().square().sum().item() if noise[0] == "r" else 0
    )
    assert gap.stderr == pytest.approx(math.sqrt(variance / probes / n), rel=0.1)
    assert abs(gap.value) < 4 * gap.stderr
    assert (exact.calls, exact.vjps) == (32, 64)
    assert (guess.calls, guess.vjps) == (32, 32 * probes)
    assert exact.probe_stderr is None
    if probes == 1:
        assert guess.probe_stderr == math.inf  # one probe a sample shows no spread
    else:
        assert guess.probe_stderr == pytest.approx(math.sqrt(variance / probes / n), rel=0.1)


def test_data_and_probes_are_stated_apart() -> None:
    """stderr² = data² + probes²: the probes' share is ‖A + Aᵀ‖² less its diagonal, over 2 K n, at any number of probes."""
    n = 4000
    evidence = FLOW.evidence(n, velocity=mixing)
    alone = mixed("exact").measure(evidence)
    assert alone.probe_stderr is None
    for probes in (2, 8):
        guess = mixed("hutchinson", probes=probes).measure(evidence)
        known = math.sqrt((0.8 - 0.5) ** 2 / probes / n)
        assert guess.probe_stderr == pytest.approx(known, rel=0.06)
        assert guess.stderr == pytest.approx(math.hypot(alone.stderr, known), rel=0.03)


def test_a_twin_that_takes_probes_for_data_is_told_apart() -> None:
    """The spread of all K n numbers is the data's, too: the probes' part is within each sample alone."""
    integrals = torch.randn(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    integrals += 10 * torch.randn(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert of_probes(integrals) == pytest.approx(1 / math.sqrt(4 * 500), rel=0.1)
    assert mean(integrals.flatten()).stderr > 5 * of_probes(integrals)


def test_probes_belong_to_their_sample() -> None:
    few, many = (NLL(divergence="hutchinson").draw_probes((n, 3), seed=5) for n in (10, 2000))
    assert few.shape == (10, 1, 3)
    assert torch.equal(few, many[:10])
    assert not torch.equal(few, NLL(divergence="hutchinson").draw_probes((10, 3), seed=6))
    assert set(many.unique().tolist()) == {-1.0, 1.0}
    assert abs(many.mean().item()) < 5 / math.sqrt(many.numel())


@pytest.mark.parametrize(("divergence", "products"), [(divergence_of, 2), (hutchinson(torch.ones(5, 3, 2)), 3)])
def test_products_are_counted_where_the_field_counts(divergence: Divergence, products: int) -> None:
    velocity = Velocity(mixing)
    divergence(velocity, torch.tensor(0.0), torch.ones(5, 2))
    assert (velocity.nfe, velocity.vjps) == (1, 5 * products)


def curved(t: float | Tensor, x: Tensor) -> Tensor:
    return torch.sin(x @ A.T * (1 + t))


def spread_of_probes(redrawn: bool) -> float:
    """The deviation, over samples, of Hutchinson's ∫ div v dt from the exact one."""
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    times = torch.linspace(0, 1, 33, dtype=torch.float64)
    rng = torch.Generator().manual_seed(1)

    def draw() -> Tensor:
        return torch.randint(2, (1000, 1, 2), generator=rng).float() * 2 - 1

    fixed = hutchinson(draw())

    def estimate(v: object, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return (hutchinson(draw()) if redrawn else fixed)(v, t, z)

    return (backward(curved, x, times, estimate)[1] - backward(curved, x, times)[1]).std().item()


def test_a_twin_that_redraws_its_probes_integrates_a_random_field() -> None:
    """Fixed probes err by the integral of one function; redrawn ones average over the calls and understate that by far."""
    assert spread_of_probes(redrawn=False) > 3 * spread_of_probes(redrawn=True)


def test_a_twin_whose_probes_are_not_of_unit_covariance_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = FLOW.evidence(2000, velocity=mixing)
    exact, draw = mixed("exact").likelihood(evidence), NLL.draw_probes
    monkeypatch.setattr(NLL, "draw_probes", lambda self, shape, seed: 1.5 * draw(self, shape, seed))
    gap = mean(mixed("hutchinson").likelihood(evidence).log_density - exact.log_density)
    assert abs(gap.value) > 8 * gap.stderr


def test_many_dimensions_are_estimated_and_exact_when_asked() -> None:
    data = Normal(dims=(1, 5, 13))
    known = {"velocity": lambda t, x: 0.5 * x, "source_log_density": data.log_density}
    evidence = FLOW.evidence(20, data=data, **known)
    guess, exact = NLL(steps=4), NLL(steps=4, divergence="exact")
    assert guess.likelihood(evidence).vjps == 16
    assert exact.likelihood(evidence).vjps == 16 * 65
    # the Jacobian is diagonal: e·J e = tr J for every Rademacher probe
    assert guess.measure(evidence).value == pytest.approx(exact.measure(evidence).value, rel=1e-6)


@pytest.mark.parametrize(("dims", "products"), [(64, 64), (65, 1)])
def test_the_divergence_is_exact_up_to_64_dimensions(dims: int, products: int) -> None:
    data = Normal(dims=(dims,))
    seen = FLOW.evidence(2, data=data, velocity=lambda t, x: 0 * x, source_log_density=data.log_density)
    assert NLL(steps=1).likelihood(seen).vjps == 4 * products


def test_the_solve_is_on_the_reference_s_own_grid() -> None:
    asked = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        asked.append(t.item())
        return 0 * x

    NLL(steps=2).measure(FLOW.evidence(2, velocity=field, reference_grid=lambda k: torch.linspace(0, 1, k + 1) ** 2))
    assert sorted(set(asked)) == pytest.approx([0, 0.125, 0.25, 0.625, 1])


def test_whether_images_have_a_floor_is_said_without_looking_at_them() -> None:
    class Elsewhere(Normal):
        levels = 256

        def take(self, *arguments: object) -> Tensor:
            raise AssertionError("asked while planning, when the files may be elsewhere")

    assert not NLL().has_floor(Elsewhere())
    assert NLL().has_floor(Normal())


def test_a_chunk_that_the_memory_does_not_hold_is_halved() -> None:
    def crowded(t: Tensor, x: Tensor) -> Tensor:
        if len(x) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return mixing(t, x)

    roomy, narrow = (mixed("hutchinson").likelihood(FLOW.evidence(100, velocity=v)) for v in (mixing, crowded))
    assert torch.allclose(roomy.log_density, narrow.log_density, atol=1e-6)
    assert roomy.vjps == narrow.vjps


def test_a_flow_that_ends_in_points_has_no_density(
    tiny: Callable[..., dict[str, Any]], measured: Callable[..., pd.DataFrame]
) -> None:
    cell = {"n": 4, "reference": {"tolerance": 1.0, "max_steps": 32}, "solvers": [{"name": "euler", "nfe": 1}]}
    table = measured(tiny(data="digits", flow={"model": "empirical"}, sample=cell, metrics=["nll", "bits_per_dim"]))
    flow = table[table["model"] == "empirical"]
    assert set(flow["status"]) == {"skipped"}
    assert flow["reason"].str.contains("end in single points").all()
    assert MODELS.get("empirical").version == 2, "a cache that holds such a density under the keys of before"
