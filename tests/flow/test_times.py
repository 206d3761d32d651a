"""Time laws: what every one must keep, and that each has the density that its paper gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import kstwobign

from fmbench.errors import UserError
from fmbench.flow import PATHS, Path
from fmbench.flow.paths import Rectified
from fmbench.flow.times import TIMES
from fmbench.randomness import generator

RECTIFIED = PATHS.build("rectified")


class Half(Rectified):
    """The rectified path, left half-way."""

    name = "half"
    end_time = 0.5


@pytest.mark.parametrize("name", TIMES.names())
@pytest.mark.parametrize("path", PATHS.names())
def test_every_law_draws_times_of_the_path_from_its_generator_alone(name: str, path: str) -> None:
    law = TIMES.build({"name": name, "k": 4} if name == "steps" else name)  # one step begins at 0, whatever is drawn
    state, along = torch.get_rng_state(), PATHS.build(path)
    if name == "edm" and not along.affine:
        with pytest.raises(UserError, match=f"flow.times = 'edm': path '{path}' is a bridge and has no noise level"):
            law.check(along)
        return
    law.check(along)
    t = law.draw(10_000, generator("a"), along)
    assert t.shape == (10_000,)
    assert t.dtype == torch.float64
    assert t.min() >= 0
    assert t.max() <= along.end_time
    assert torch.equal(t, law.draw(10_000, generator("a"), along))
    assert not torch.equal(t, law.draw(10_000, generator("b"), along))
    assert torch.equal(state, torch.get_rng_state())
    assert TIMES.build(law.spec()) == law


@pytest.mark.parametrize("name", [name for name in TIMES.names() if name not in ("edm", "steps")])
def test_quantiles_rise_from_0_to_1(name: str) -> None:
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    t = TIMES.build(name).quantile(u)
    assert (t.diff() >= 0).all()
    assert t[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-15)


def logit(t: np.ndarray) -> np.ndarray:
    return np.log(t) - np.log1p(-t)


def mode_density(s: float) -> Callable[[np.ndarray], np.ndarray]:
    """The law's distribution function by inverting the paper's own map, f(u) = 1 − u − s(cos²(πu/2) − 1 + u), on a grid."""
    u = np.linspace(0, 1, 200_001)
    f = 1 - u - s * (np.cos(np.pi / 2 * u) ** 2 - 1 + u)
    return lambda t: np.interp(t, f[::-1], 1 - u[::-1])


def u_shaped(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """∫ of e^{aτ} + e^{a(1−τ)}, normalised: the mixture of a rising and a falling exponential."""
    return lambda t: 0.5 * (np.expm1(a * t) + np.exp(a) - np.exp(a * (1 - t))) / np.expm1(a)


LAWS: list[tuple[Any, Callable[[np.ndarray], np.ndarray]]] = [
    ("uniform", lambda t: t),
    ("logit-normal", lambda t: ndtr(logit(t))),
    ({"name": "logit-normal", "m": 0.8, "s": 0.5}, lambda t: ndtr((logit(t) - 0.8) / 0.5)),
    ("mode", mode_density(1.29)),
    ({"name": "mode", "s": -0.7}, mode_density(-0.7)),
    ("u-shaped", u_shaped(4.0)),
    ({"name": "u-shaped", "a": 1.0}, u_shaped(1.0)),
    ("edm", lambda t: ndtr((logit(t) - 1.2) / 1.2)),  # rectified: ln(σ/α) = −logit t
]
N = 20_000
FARTHEST = float(kstwobign.isf(1e-5)) / math.sqrt(N)  # Kolmogorov's bound for n draws: 1 in 100,000 goes beyond


def distance(t: torch.Tensor, distribution: Callable[[np.ndarray], np.ndarray]) -> float:
    """Kolmogorov-Smirnov: the largest gap between the draws' distribution and the law's."""
    seen = distribution(np.sort(t.numpy()))
    places = np.arange(N + 1) / N
    return float(max((places[1:] - seen).max(), (seen - places[:-1]).max()))


@pytest.mark.parametrize(("law", "distribution"), LAWS, ids=lambda value: str(value) if not callable(value) else "")
def test_draws_have_the_laws_distribution(law: Any, distribution: Callable[[np.ndarray], np.ndarray]) -> None:
    """On two paths where it is a law of time itself; a slightly different law is told apart."""
    t = TIMES.build(law).draw(N, generator("ks"), RECTIFIED)
    assert distance(t, distribution) < FARTHEST
    assert distance(t**1.1, distribution) > FARTHEST
    if law != "edm":
        shorter = PATHS.build("vp-linear")
        t = TIMES.build(law).draw(N, generator("ks"), shorter)
        assert distance(t / shorter.end_time, distribution) < FARTHEST


@pytest.mark.parametrize(
    ("law", "distribution"), LAWS[:-1], ids=lambda value: str(value) if not callable(value) else ""
)
def test_quantiles_are_the_distributions_inverse(law: Any, distribution: Callable[[np.ndarray], np.ndarray]) -> None:
    """To the digits that the distributions' own grids leave, which no number of draws shows."""
    u = torch.linspace(0.001, 0.999, 999, dtype=torch.float64)
    assert np.allclose(distribution(TIMES.build(law).quantile(u).numpy()), u.numpy(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", TIMES.names())
def test_a_path_that_ends_early_is_trained_up_to_its_end_alone(name: str) -> None:
    t = TIMES.build({"name": name, "k": 50} if name == "steps" else name).draw(10_000, generator("early"), Half())
    assert 0.4 < t.max() <= 0.5


@pytest.mark.parametrize("path", [path for path in map(PATHS.build, PATHS.names()) if path.affine], ids=Path.label)
def test_edm_is_lognormal_in_the_noise_level_of_every_path(path: Path) -> None:
    """ln(σ/α) ~ N(P_mean, P_std²), less what lies beyond the path's own levels."""
    law = TIMES.build({"name": "edm", "p_mean": -0.5, "p_std": 1.0})
    t = law.draw(N, generator("edm"), path)
    ends = path.half_log_snr(torch.tensor([0.0, path.end_time], dtype=torch.float64))
    inside = (t > 0) & (t < path.end_time)
    assert inside.float().mean() > 0.99
    level = -path.half_log_snr(t[inside])
    low, high = (float(ndtr(-end.item() + 0.5)) for end in ends.flip(0))
    seen = (ndtr(np.sort(level.numpy()) + 0.5) - low) / (high - low)
    gap = np.abs(seen - (np.arange(len(seen)) + 0.5) / len(seen)).max()
    assert gap < FARTHEST + 1 / N


def test_parameters_that_make_no_law_are_refused() -> None:
    for law in ({"name": "mode", "s": 1.8}, {"name": "mode", "s": -1.1}, {"name": "u-shaped", "a": 0}):
        with pytest.raises(UserError, match=r"s = 1\.8|s = -1\.1|a = 0"):
            TIMES.build(law)


def test_a_student_is_asked_where_its_steps_begin_and_nowhere_else() -> None:
    t = TIMES.build({"name": "steps", "k": 4}).draw(4000, generator("steps"), RECTIFIED)
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [0, 0.25, 0.5, 0.75]
    assert (counts - 1000).abs().max() < 5 * math.sqrt(4000 * 0.25 * 0.75)
    assert TIMES.build("steps").quantile(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).tolist() == [0, 0, 0]
