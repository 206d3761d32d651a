"""Predictions: each from each, exactly; the velocity that networks' words become; refusals where the identities do not hold."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS, Path
from fmbench.flow.oracles import MixtureVelocity
from fmbench.flow.paths import column
from fmbench.flow.predictions import PREDICTIONS, STIFFEST, Parametrisation, Prediction, check, convert
from fmbench.randomness import generator

AFFINE = [path for path in map(PATHS.build, PATHS.names()) if path.affine and path.sound]
each = pytest.mark.parametrize("path", AFFINE, ids=lambda path: path.label())
pairs = pytest.mark.parametrize(("have", "want"), list(itertools.product(PREDICTIONS, PREDICTIONS)))


def drawn(path: Path, n: int = 200, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """x0, x1 `(n, 3)` and times between the shares `low` and `high` of the path."""
    rng = generator("test predictions")
    x0, x1 = (torch.randn(n, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    return x0, 1.7 * x1 + 0.5, path.end_time * torch.linspace(low, high, n, dtype=torch.float64)


def truths(path: Path, x0: Tensor, x1: Tensor, t: Tensor) -> dict[Prediction, Tensor]:
    """What each prediction is when x0 and x1 are known."""
    s = path.schedule(column(t, x0))
    return {"velocity": s.d_alpha * x1 + s.d_sigma * x0, "epsilon": x0, "data": x1, "score": -x0 / s.sigma}


@each
@pairs
def test_each_becomes_each(path: Path, have: Prediction, want: Prediction) -> None:
    """The definitions themselves, inside the path; and back again."""
    x0, x1, t = drawn(path, low=0.02, high=0.98)
    x, s = path.point(x0, x1, t)[0], path.schedule(column(t, x0))
    known = truths(path, x0, x1, t)
    made = convert(known[have], have, want, s, x)
    assert torch.allclose(made, known[want], rtol=1e-9, atol=1e-9)
    assert torch.allclose(convert(made, want, have, s, x), known[have], rtol=1e-9, atol=1e-9)


@each
def test_a_score_becomes_the_velocity_by_the_probability_flow(path: Path) -> None:
    """v = (α̇/α) x + (α̇σ²/α − σσ̇) s (Song 2021), and σ = 0 does no harm to it."""
    x0, _, t = drawn(path, low=0.02)
    s = path.schedule(column(t, x0))
    score = x0[:, [2, 0, 1]]
    expected = s.d_alpha / s.alpha * x0 + (s.d_alpha * s.sigma**2 / s.alpha - s.sigma * s.d_sigma) * score
    assert torch.allclose(convert(score, "score", "velocity", s, x0), expected, rtol=1e-12, atol=1e-12)


@each
@pytest.mark.parametrize("want", PREDICTIONS)
def test_conditional_means_are_related_alike(path: Path, want: Prediction) -> None:
    """On a mixture: the exact velocity becomes the score of p_t, Tweedie's E[x1 | x_t] and E[x0 | x_t]."""
    means = torch.tensor([[-1.0, 0.5, 0.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    stds, weights = torch.full((2, 3), 0.6, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    x0, x1, t = drawn(path, low=0.05, high=0.95)
    x = path.point(x0, x1, t)[0].requires_grad_()
    s = path.schedule(column(t, x0))
    spread = (s.alpha**2 * stds[0, 0] ** 2 + s.sigma**2)[:, 0]
    parts = [w.log() - 0.5 * (x - s.alpha * m).square().sum(1) / spread for w, m in zip(weights, means, strict=True)]
    score = torch.autograd.grad(torch.logsumexp(torch.stack(parts), 0).sum(), x)[0]
    x = x.detach()
    exact = {
        "velocity": MixtureVelocity(path, means, stds, weights)(t, x),
        "score": score,
        "epsilon": -s.sigma * score,
        "data": (x + s.sigma**2 * score) / s.alpha,
    }
    assert torch.allclose(convert(exact["velocity"], "velocity", want, s, x), exact[want], rtol=1e-7, atol=1e-7)


@each
@pairs
def test_float32_is_as_good_as_its_roundings_allow(path: Path, have: Prediction, want: Prediction) -> None:
    """Rounded input moves the result by at most its own roundings times the amplification of the identity."""
    x0, x1, t = drawn(path, low=0.05, high=0.95)
    s, low = path.schedule(column(t, x0)), path.schedule(column(t.float(), x0))
    s = path.schedule(column(t.float().double(), x0))
    x, y = path.point(x0, x1, t.float().double())[0], truths(path, x0, x1, t.float().double())[have]
    exact = convert(y, have, want, s, x)
    one = torch.ones_like(column(t, x0))
    size = convert(one, have, want, s, 0 * one).abs() * y.abs() + convert(0 * one, have, want, s, one).abs() * x.abs()
    made = convert(y.float(), have, want, low, x.float()).double()
    slack = 1e4 if path.name == "fm-ot" else 64  # σ = 1 − (1 − σ_min) t cancels
    assert ((made - exact).abs() <= slack * torch.finfo(torch.float32).eps * (size + exact.abs())).all()


# -- networks --


@each
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_network_that_says_its_target_moves_as_the_path(path: Path, prediction: Prediction) -> None:
    """F = target gives v = u_t wherever the network is asked; targets of noise and score have unit variance everywhere."""
    reading = Parametrisation(path, prediction, 1.7)
    x0, x1, t = drawn(path, 2000)
    inputs, target = reading.regression(x0, x1, t)
    x, u = path.point(x0, x1, t)
    p = reading.head(column(t, x))
    asked = reading.asked(t) == t
    assert asked.float().mean() > 0.9
    assert torch.allclose((p.c_skip * x + p.c_out * target)[asked], u[asked], rtol=1e-8, atol=1e-8)
    assert torch.allclose(inputs, p.c_in * x)
    assert inputs.isfinite().all()
    assert target.isfinite().all()
    if prediction in ("epsilon", "score"):
        assert target.var().item() == pytest.approx(1, abs=5 * (2 / target.numel()) ** 0.5)


@each
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_field_is_finite_and_nowhere_too_stiff(path: Path, prediction: Prediction) -> None:
    """The rate |c_skip| is at most STIFFEST where it would diverge; the bound is reached only where it must be."""
    reading = Parametrisation(path, prediction, 1.7)
    p = reading.head(torch.linspace(0, path.end_time, 1001, dtype=torch.float64))
    assert all(c.isfinite().all() for c in (p.c_in, p.c_skip, p.c_out))
    if prediction != "velocity":
        assert p.c_skip.abs().max() <= STIFFEST * (1 + 1e-9)
    free = {"velocity": True, "data": path.name == "ve"}.get(prediction, path.name in ("vp-linear", "ve"))
    assert ((reading.first, reading.last) == (0.0, 1.0)) == free


def test_where_the_field_stands_still() -> None:
    for path in ("rectified", "fm-ot"):
        noise, data = (Parametrisation(PATHS.build(path), prediction, 1.0) for prediction in ("score", "data"))
        assert noise.asked(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.05, 0.5, 1.0])
        assert data.asked(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([0.0, 0.5, 0.95], abs=1e-4)


def test_score_and_noise_are_one_regression() -> None:
    path = PATHS.build("vp-cosine")
    x0, x1, t = drawn(path)
    (x, noise), (same, score) = (Parametrisation(path, p, 1.7).regression(x0, x1, t) for p in ("epsilon", "score"))
    assert torch.equal(x, same)
    assert torch.equal(score, -noise)


def test_a_broken_twin_is_rejected() -> None:
    """The often copied v = (x1 − x_t)/t is no velocity."""
    path = PATHS.build("rectified")
    x0, x1, t = drawn(path, low=0.02, high=0.98)
    x, s = path.point(x0, x1, t)[0], path.schedule(column(t, x0))
    v = convert(x1, "data", "velocity", s, x)
    assert torch.allclose(v, (x1 - x) / (1 - column(t, x0)), rtol=1e-9)
    assert not torch.allclose(v, (x1 - x) / column(t, x0), rtol=0.1)


# -- refusals --


SCORE_ALONE = [
    ({"coupling": "minibatch-ot"}, "coupling 'minibatch-ot' is not independent"),
    ({"source": "moons"}, "source 'moons' is not normal"),
    ({"reflow": 2}, "the pairs of reflow = 2 are not independent"),
]
FLOW = {"path": "rectified", "coupling": "independent", "source": "normal", "reflow": 0, "distilled": 0}


def asked(prediction: Prediction, path: str, coupling: str, source: str, reflow: int, distilled: int) -> None:
    check(prediction, PATHS.build(path), COUPLINGS.build(coupling), source, reflow, distilled)


@pytest.mark.parametrize(
    ("prediction", "changes", "reason"),
    [
        *[
            (prediction, changes, reason)
            for prediction in ("epsilon", "data", "score")
            for changes, reason in (
                ({"path": "icfm"}, "path 'icfm' is a bridge"),
                ({"path": "over-time"}, "what path 'over-time' trains is no velocity"),
                ({"distilled": 2}, "a student of 2 steps is asked at its few times alone"),
            )
        ],
        *[("score", changes, reason) for changes, reason in SCORE_ALONE],
    ],
)
def test_what_does_not_determine_the_velocity_is_refused(
    prediction: Prediction, changes: dict[str, Any], reason: str
) -> None:
    asked(prediction, **FLOW)
    asked("velocity", **{**FLOW, **changes})
    with pytest.raises(UserError, match=rf"flow\.prediction = '{prediction}': {reason}.* Use prediction 'velocity'"):
        asked(prediction, **{**FLOW, **changes})


@pytest.mark.parametrize("prediction", ["epsilon", "data"])
def test_noise_and_data_determine_the_velocity_of_any_pairs(prediction: Prediction) -> None:
    """x0 ~ N(0, 2²) and x1 ~ N(0, 0.5²) of correlation 0.8, in closed form; no claim of the score's is made of them."""
    for changes, _ in SCORE_ALONE:
        asked(prediction, **{**FLOW, **changes})
    t, x = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), torch.full((9,), 1.3, dtype=torch.float64)
    for path in ("rectified", "vp-cosine", "vp-linear"):
        s = PATHS.build(path).schedule(t)
        along_x1, along_x0 = s.alpha * 0.25 + s.sigma * 0.8, s.sigma * 4 + s.alpha * 0.8
        variance = s.alpha * along_x1 + s.sigma * along_x0
        means = {"data": along_x1 / variance * x, "epsilon": along_x0 / variance * x}
        velocity = s.d_alpha * means["data"] + s.d_sigma * means["epsilon"]
        torch.testing.assert_close(convert(means[prediction], prediction, "velocity", s, x), velocity)
