"""The mixture oracle: it solves the continuity equation, it is E[u_t | x_t], and it carries noise to the mixture."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fmbench.flow import PATHS, Path, oracles
from fmbench.flow.oracles import EmpiricalVelocity, MixtureVelocity
from fmbench.flow.velocity import Velocity
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS

EVERY = [PATHS.build(name) for name in PATHS.names()]
each = pytest.mark.parametrize("path", EVERY, ids=lambda path: path.label())
each_sound = pytest.mark.parametrize("path", [path for path in EVERY if path.sound], ids=lambda path: path.label())
UNSOUND = [path for path in EVERY if not path.sound]

MEANS = torch.tensor([[-2.0, 0.5], [1.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
STDS = torch.tensor([[0.3, 0.7], [0.5, 0.5], [1.0, 0.4]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


def oracle(path: Path, weights: Tensor = WEIGHTS) -> MixtureVelocity:
    return MixtureVelocity(path, MEANS, STDS, weights)


def draw(n: int, *parts: str | int) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator("test oracles", *parts)
    k = torch.multinomial(WEIGHTS, n, replacement=True, generator=rng)
    x0, noise = (torch.randn(n, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    return x0, MEANS[k] + STDS[k] * noise, k


def log_density(path: Path, t: Tensor, x: Tensor) -> Tensor:
    """log p_t(x), written anew: t `(B,)`, x `(B, 2)`."""
    s = path.marginal(t[:, None])
    parts = [
        torch.distributions.Normal(s.alpha * m, (s.alpha**2 * d**2 + s.sigma**2).sqrt()).log_prob(x).sum(1) + w.log()
        for m, d, w in zip(MEANS, STDS, WEIGHTS, strict=True)
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def interior(path: Path, n: int = 200) -> tuple[Tensor, Tensor]:
    """Times inside (0, end) and points where p_t lives."""
    t = path.end_time * (0.02 + 0.96 * torch.rand(n, generator=generator("interior"), dtype=torch.float64))
    x0, x1, _ = draw(n, "interior")
    return t, path.point(x0, x1, t, noise=draw(n, "bridge")[0])[0]


def continuity_residual(path: Path) -> Tensor:
    """∂_t log p + v · ∇ log p + ∇ · v, as a share of the sizes of its parts."""
    t, x = interior(path)
    t, x = t.requires_grad_(), x.requires_grad_()
    log_p = log_density(path, t, x)
    rate, score = torch.autograd.grad(log_p.sum(), (t, x))
    v = oracle(path)(t, x)
    divergence = sum(torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
    transport = (v * score).sum(1)
    size = rate.abs() + transport.abs() + divergence.abs()
    return (rate + transport + divergence).abs() / size


@each_sound
def test_continuity_equation(path: Path) -> None:
    assert (continuity_residual(path) <= 1e-9).all()


@pytest.mark.parametrize("path", UNSOUND, ids=lambda path: path.label())
def test_an_unsound_path_breaks_it(path: Path) -> None:
    """Even exactly learned, what it trains does not move p_t."""
    assert continuity_residual(path).median() > 0.05


@each
def test_velocity_is_the_scores(path: Path) -> None:
    """v = (α̇/α) x + (α̇σ²/α − σσ̇) ∇ log p_t."""
    t, x = interior(path)
    score = torch.autograd.grad(log_density(path, t, x.requires_grad_()).sum(), x)[0]
    s = path.marginal(t[:, None])
    expected = s.d_alpha / s.alpha * x + (s.d_alpha * s.sigma**2 / s.alpha - s.sigma * s.d_sigma) * score
    assert torch.allclose(oracle(path)(t, x), expected, rtol=1e-8, atol=1e-8)


def z_scores(path: Path, field: MixtureVelocity, t: float, n: int = 100_000) -> Tensor:
    """Of E[(u_t − v(t, x_t)) g(x_t)], which is 0 for every g when v = E[u_t | x_t]."""
    x0, x1, _ = draw(n, "regression")
    time = torch.tensor(max(t * path.end_time, path.start_time), dtype=torch.float64)
    x, u = path.point(x0, x1, time, noise=draw(n, "bridge")[0])
    scale = x.std()
    tests = [torch.ones(n, 1), x / scale, (x / scale) ** 2, torch.sin(3 * x), (x > 0.3), (x.norm(dim=1) < 1)[:, None]]
    residual = u - field(time, x)
    products = torch.cat([residual * g.flip(1) for g in tests] + [residual * g for g in tests], 1)
    return products.mean(0) / (products.std(0) / math.sqrt(n)).clamp(min=1e-12)


@each
@pytest.mark.parametrize("t", [0.0, 0.4, 0.8])
def test_it_is_the_conditional_expectation(path: Path, t: float) -> None:
    assert z_scores(path, oracle(path), t).abs().max() < 5


def test_a_broken_twin_is_rejected() -> None:
    path = PATHS.build("rectified")
    wrong = oracle(path, weights=torch.tensor([0.3, 0.4, 0.3]))
    assert z_scores(path, wrong, 0.4).abs().max() > 8


@each
def test_one_gaussian_has_the_closed_form(path: Path) -> None:
    """v = α̇ μ + (ṡ/s)(x − α μ), s_i = √(α² λ_i + σ²)."""
    mean, std = torch.tensor([[1.0, -0.5]], dtype=torch.float64), torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    field = MixtureVelocity(path, mean, std, torch.ones(1))
    t, x = interior(path)
    s = path.marginal(t[:, None])
    variance = s.alpha**2 * std**2 + s.sigma**2
    slope = (s.alpha * s.d_alpha * std**2 + s.sigma * s.d_sigma) / variance
    assert torch.allclose(field(t, x), s.d_alpha * mean + slope * (x - s.alpha * mean), rtol=1e-10, atol=1e-10)


def test_shapes_and_dtypes() -> None:
    field, x = oracle(PATHS.build("rectified")), draw(6, "shapes")[0]
    scalar = field(torch.tensor(0.3, dtype=torch.float64), x)
    assert torch.equal(scalar, field(torch.full((6,), 0.3, dtype=torch.float64), x))
    low = field(torch.tensor(0.3), x.float())
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), scalar, atol=1e-5)
    image = field(torch.tensor(0.3), x.reshape(6, 1, 1, 2))
    assert image.shape == (6, 1, 1, 2)


@each_sound
def test_it_carries_noise_to_the_mixture(path: Path) -> None:
    """Weights, means and spreads within five standard errors, and what of σ_0 and α_0 the prior mismatch leaves."""
    n = 2048
    z0 = path.start(draw(n, "noise")[0])
    grid = path.warp(torch.linspace(0, 1, 65, dtype=torch.float64))
    z1 = SOLVERS.build("rk4").integrate(Velocity(oracle(path)), z0, grid).x
    nearest = ((z1[:, None] - MEANS) / STDS).square().sum(2).argmin(1)
    real = draw(10 * n, "real")[1]
    expected = ((real[:, None] - MEANS) / STDS).square().sum(2).argmin(1)  # components overlap: judge both alike
    slack = 0.01 if path.starts_at_source() else 0.03
    for k in range(3):
        a, b = z1[nearest == k], real[expected == k]
        weight = len(b) / len(real)
        assert len(a) / n == pytest.approx(weight, abs=5 * math.sqrt(weight * (1 - weight) / n) + slack)
        spread = b.std(0)
        error = 5 * spread / math.sqrt(len(a))
        assert ((a.mean(0) - b.mean(0)).abs() < error + slack).all()
        assert ((a.std(0) - spread).abs() < error + slack).all()


def test_minimal_loss_in_one_dimension() -> None:
    """N(0, 1) → N(m, s²), rectified, independent: L* = E|u_t − v|² = π s / 2."""
    n, m, s = 400_000, 1.3, 0.6
    rng = generator("minimal loss")
    x0, z, t = (f(n, 1, generator=rng, dtype=torch.float64) for f in (torch.randn, torch.randn, torch.rand))
    path, t = PATHS.build("rectified"), t[:, 0]
    x, u = path.point(x0, m + s * z, t)
    field = MixtureVelocity(path, *(torch.tensor(a, dtype=torch.float64) for a in ([[m]], [[s]], [1.0])))
    squares = (u - field(t, x)).square()
    assert squares.mean().item() == pytest.approx(math.pi * s / 2, abs=5 * squares.std().item() / math.sqrt(n))


@each
def test_rotated_components_are_the_rotated_field(path: Path) -> None:
    """One rotation R of all the space: v_R(t, x) = R v(t, Rᵀ x)."""
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    rotated = MixtureVelocity(path, MEANS @ turn.T, STDS, WEIGHTS, turn.expand(3, 2, 2))
    t, x = interior(path)
    assert torch.allclose(rotated(t, x @ turn.T), oracle(path)(t, x) @ turn.T, rtol=1e-9, atol=1e-9)


POINTS = torch.randn(300, 1, 2, 2, generator=generator("points"))


@pytest.mark.parametrize("path", [PATHS.build(name) for name in ("rectified", "vp-cosine", "vp-linear", "ve")])
@pytest.mark.parametrize("at_once", [2**22, 64])
def test_the_empirical_field_is_a_mixture_without_width(path: Path, at_once: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(oracles, "FLOATS_AT_ONCE", at_once)
    flat = POINTS.flatten(1)
    expected = MixtureVelocity(path, flat, torch.zeros_like(flat), torch.full((300,), 1 / 300))
    t = path.end_time * torch.linspace(0, 0.999, 40, dtype=torch.float64)
    x0 = torch.randn(40, 1, 2, 2, generator=generator("empirical"), dtype=torch.float64)
    x, _ = path.point(x0, POINTS[:40].double(), t)
    assert torch.allclose(EmpiricalVelocity(path, POINTS)(t, x), expected(t, x), rtol=1e-7, atol=1e-7)


def test_the_empirical_field_is_safe_where_noise_vanishes() -> None:
    field = EmpiricalVelocity(PATHS.build("rectified"), POINTS)
    for t in (1 - 1e-9, 1 - 1e-15, 1.0):
        v = field(torch.tensor(t, dtype=torch.float64), POINTS[:5].double())
        assert v.isfinite().all()
    end = torch.tensor(1.0, dtype=torch.float64)
    assert torch.allclose(field(end, POINTS[:5] + 1e-3), POINTS[:5])  # α̇ E[x1 | x], the nearest point


def test_the_empirical_flow_ends_in_its_points() -> None:
    path = PATHS.build("fm-ot")
    z0 = torch.randn(50, 1, 2, 2, generator=generator("starts"), dtype=torch.float64)
    grid = 1 - torch.logspace(0, -5, 201, dtype=torch.float64)
    z1 = SOLVERS.build("rk4").integrate(Velocity(EmpiricalVelocity(path, POINTS[:20]), path=path), z0, grid).x
    assert torch.cdist(z1.flatten(1), POINTS[:20].double().flatten(1)).amin(1).max() < 1e-3


def test_halfway_between_two_points_the_weights_are_numbers() -> None:
    """±1 at σ = 0.01: each weighs e^{−4900} of a point at the centre, and E[x1 | x] = tanh(αx/σ²) all the same."""
    t, x = torch.tensor(0.99, dtype=torch.float64), torch.tensor([[0.0], [1e-5], [-1e-4]], dtype=torch.float64)
    field = EmpiricalVelocity(PATHS.build("rectified"), torch.tensor([[-1.0], [1.0]]))
    assert torch.allclose(field(t, x), (torch.tanh(t * x / (1 - t) ** 2) - x) / (1 - t), rtol=1e-9)
