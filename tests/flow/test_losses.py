"""Losses and weights: their formulas, and that flow matching and conditional flow matching have one gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from fmbench.flow import PATHS
from fmbench.flow.losses import LOSSES, WEIGHTS
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.paths import column
from fmbench.flow.predictions import PREDICTIONS, Parametrisation, Prediction
from fmbench.randomness import generator

AFFINE = [path.name for path in map(PATHS.build, PATHS.names()) if path.affine and path.sound]


def error(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator("test losses"), dtype=torch.float64)


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_is_zero_at_zero_grows_and_weighs_samples(name: str) -> None:
    loss, e = LOSSES.build(name), error(3, 16, 2, 4, 4)
    assert loss.of(0 * e).tolist() == [0, 0, 0]
    assert loss.of(e).shape == (3,)
    assert (loss.of(2 * e) > loss.of(e)).all()
    assert torch.allclose(loss.of(e)[1], loss.of(e[1:2])[0], rtol=1e-14)
    weight = torch.rand(3, 16, generator=generator("weights"), dtype=torch.float64)
    ones = torch.ones_like(weight)
    assert torch.allclose(loss.of(e, ones), loss.of(e), rtol=1e-12)
    single = torch.stack([loss.of(e[:, i : i + 1]) for i in range(16)], 1)
    assert torch.allclose(loss.of(e, weight), (weight * single).mean(1), rtol=1e-12)


def test_mse_is_the_mean_over_samples_and_dimensions() -> None:
    e = error(2, 8, 5)
    assert torch.allclose(LOSSES.build("mse").of(e), e.square().mean((1, 2)), rtol=1e-14)


def test_pseudo_huber_is_quadratic_below_c_and_linear_above() -> None:
    """c = 0.00054 √D if not given."""
    loss, direction = LOSSES.build("pseudo-huber"), torch.ones(1, 1, 4, dtype=torch.float64) / 2  # of norm 1
    c = 0.00054 * 2
    assert loss.of(1e-3 * c * direction).item() == pytest.approx(0.5e-6 * c, rel=1e-5)
    assert loss.of(1e3 * direction).item() == pytest.approx(1e3 - c, rel=1e-9)
    assert LOSSES.build({"name": "pseudo-huber", "c": 3}).of(4 * direction).item() == pytest.approx(2)


@pytest.mark.parametrize("name", AFFINE)
def test_the_velocity_weight_makes_every_prediction_the_velocitys_regression(name: str) -> None:
    """λ‖F − target‖² = ‖v̂ − u‖² for each F, wherever the network is asked."""
    path, law = PATHS.build(name), WEIGHTS.build("velocity")
    t = path.end_time * torch.linspace(0.06, 0.94, 50, dtype=torch.float64)
    x0, x1, said = (torch.randn(50, 3, generator=generator("w", k), dtype=torch.float64) for k in range(3))
    x, u = path.point(x0, x1, t)
    for prediction in PREDICTIONS:
        reading = Parametrisation(path, prediction, 1.0)
        _, target = reading.regression(x0, x1, t)
        p = reading.head(column(t, x))
        wanted = (p.c_skip * x + p.c_out * said - u).square().sum(1)
        weight = law.at(reading, t)
        assert weight is not None
        assert torch.allclose(weight * (said - target).square().sum(1), wanted, rtol=1e-7, atol=1e-9), prediction


@pytest.mark.parametrize(("name", "prediction"), list(itertools.product(AFFINE, PREDICTIONS)))
def test_min_snr_weighs_the_datas_error(name: str, prediction: Prediction) -> None:
    path, law = PATHS.build(name), WEIGHTS.build("min-snr")
    t = path.end_time * torch.linspace(0.002, 0.998, 50, dtype=torch.float64)  # where the field stands still, too
    reading, s = Parametrisation(path, prediction, 1.0), path.schedule(t)
    factor = {"epsilon": s.sigma / s.alpha, "score": s.sigma / s.alpha, "data": torch.ones_like(t)}.get(prediction)
    if factor is None:
        factor = s.sigma * reading.head(t).c_out / (s.alpha * s.d_sigma - s.sigma * s.d_alpha)
    snr = (s.alpha / s.sigma) ** 2
    assert torch.allclose(law.at(reading, t), snr.clamp(max=5) * factor**2, rtol=1e-9)


@pytest.mark.parametrize("name", WEIGHTS.names())
@pytest.mark.parametrize("path", PATHS.names())
def test_every_weight_is_finite_at_every_training_time(name: str, path: str) -> None:
    along = PATHS.build(path)
    for prediction in PREDICTIONS if along.affine and along.sound else ("velocity",):
        t = torch.linspace(along.start_time, along.end_time, 101).reshape(1, -1)
        weight = WEIGHTS.build(name).at(Parametrisation(along, prediction, 1.3), t)
        if weight is None:
            continue
        assert weight.shape == t.shape
        assert weight.isfinite().all()
        assert (weight >= 0).all()


# -- theorem 2 of Lipman 2023 --

N, PARTS = 60_000, 60


def gradient_differences(twin: bool) -> Tensor:
    """Differences `(PARTS, P)` of the parameters' gradients of E‖v_θ − u_t‖² and E‖v_θ − v*(t, x_t)‖², part by part."""
    rng = generator("theorem 2")
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.0]], dtype=torch.float64)
    stds, weights = torch.full((2, 2), 0.4, dtype=torch.float64), torch.tensor([0.4, 0.6], dtype=torch.float64)
    path = PATHS.build("rectified")
    oracle = MixtureVelocity(path, means, stds, weights)
    k = torch.multinomial(weights, N, replacement=True, generator=rng)
    x0, z = (torch.randn(N, 2, generator=rng, dtype=torch.float64) for _ in range(2))
    x1, t = means[k] + stds[k] * z, 0.1 + 0.8 * torch.rand(N, generator=rng, dtype=torch.float64)
    x, u = path.point(x0, x1, t)
    if twin:
        u = (x1 - x0) / t[:, None]
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.7, generator=rng)
    exact, loss = oracle(t, x), LOSSES.build("mse")

    def gradient(target: Tensor, part: slice) -> Tensor:
        said = network(torch.cat([x[part], t[part, None]], 1))
        parts = torch.autograd.grad(loss.of((said - target[part])[None]).sum(), list(network.parameters()))
        return torch.cat([g.flatten() for g in parts])

    size = N // PARTS
    slices = [slice(i * size, (i + 1) * size) for i in range(PARTS)]
    return torch.stack([gradient(u, part) - gradient(exact, part) for part in slices])


def largest_z(differences: Tensor) -> float:
    return (differences.mean(0).abs() / (differences.std(0) / math.sqrt(PARTS))).max().item()


def test_flow_matching_and_conditional_flow_matching_have_one_gradient() -> None:
    """Every parameter's within 5 standard errors of 0 over independent parts of the batch; and the error is small."""
    differences = gradient_differences(twin=False)
    assert largest_z(differences) < 5
    assert largest_z(gradient_differences(twin=True)) > 20
