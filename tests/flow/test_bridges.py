"""Bridges: between Gaussians everything is known, the Schrödinger bridge included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fmbench.errors import UserError
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.couplings import Coupling
from fmbench.randomness import generator

N = 200_000
S0, S1, SIGMA = 1.0, 0.6, 0.8
# Covariance of the Schrödinger bridge's ends, N(0, s0²) and N(·, s1²) under diffusion σ: c² + σ² c = s0² s1².
C = (math.sqrt(4 * S0**2 * S1**2 + SIGMA**4) - SIGMA**2) / 2


def ends(covariance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian x0, x1 of that covariance, and a bridge's noise, `(N, 1)` each."""
    rng = generator("test bridges")
    a, b, noise = (torch.randn(N, 1, generator=rng, dtype=torch.float64) for _ in range(3))
    return S0 * a, covariance / S0 * a + math.sqrt(S1**2 - (covariance / S0) ** 2) * b, noise


def variance(t: float) -> float:
    """Of the bridge's p_t."""
    return (1 - t) ** 2 * S0**2 + t**2 * S1**2 + 2 * t * (1 - t) * C + SIGMA**2 * t * (1 - t)


def errors(t: float, covariance: float) -> tuple[float, float]:
    """How far the spread of x_t and the slope of E[u | x_t] are from the bridge's own, in standard errors."""
    x0, x1, noise = ends(covariance)
    x, u = PATHS.build({"name": "sb-cfm", "sigma": SIGMA}).point(x0, x1, torch.tensor(t, dtype=torch.float64), noise)
    h = 1e-5
    slope = (variance(t + h) - variance(t - h)) / (4 * h) / variance(t)  # v(t, x) = (log s_t)˙ x, less the mean's
    residual = (u - slope * x) * x
    spread = x.square() - variance(t)
    return tuple((abs(e.mean()) / (e.std() / math.sqrt(N))).item() for e in (spread, residual))  # type: ignore[return-value]


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_with_the_entropic_plan_it_is_the_schroedinger_bridge(t: float) -> None:
    """Its marginals, and the velocity of its probability flow; of the independent or the optimal plan it is neither."""
    assert max(errors(t, C)) < 5
    for other in (0.0, 0.999 * S0 * S1):
        assert max(errors(t, other)) > 10


def test_the_entropic_plan_is_that_of_regularisation_two_sigma_squared() -> None:
    """The coupling that the path asks for has the bridge's covariance; with half of the regularisation it has not."""
    if "sinkhorn" not in COUPLINGS.names():
        pytest.skip("there is no coupling 'sinkhorn'")

    def gap(reg: float) -> float:
        """Of the pairs' covariance over 16 problems, in standard errors and the plan's own bias of about 1/n."""
        seen = []
        for k in range(16):
            rng = generator("entropic", k)
            x0, x1 = S0 * torch.randn(512, 1, generator=rng), S1 * torch.randn(512, 1, generator=rng)
            i, j = COUPLINGS.build({"name": "sinkhorn", "reg": reg}).pair(x0, x1, rng)
            seen.append((x0[i] * x1[j]).mean().item())
        values = torch.tensor(seen, dtype=torch.float64)
        return (abs(values.mean() - C) / (values.std() / 4 + 1 / 512)).item()

    assert gap(2 * SIGMA**2) < 5
    assert gap(SIGMA**2) > 5


class Sinkhorn(Coupling):
    """Stands for the entropic coupling: what the path asks is its name and regularisation."""

    name = "sinkhorn"
    reg: float = 2.0


def test_a_schroedinger_bridge_asks_for_its_coupling() -> None:
    path = PATHS.build({"name": "sb-cfm", "sigma": 0.5})
    path.check(Sinkhorn(reg=0.5))
    for wrong in (Sinkhorn(), Sinkhorn(reg=0.505), COUPLINGS.build("independent"), COUPLINGS.build("minibatch-ot")):
        with pytest.raises(
            UserError, match=r"path 'sb-cfm\[sigma=0.5\]' with coupling .* Use coupling \{name: sinkhorn, reg: 0\.5\}"
        ):
            path.check(wrong)
    PATHS.build("icfm").check(COUPLINGS.build("minibatch-ot"))
    PATHS.build("sb-cfm").check(COUPLINGS.build("sinkhorn"))  # the defaults, σ = 1 and regularisation 2


def test_the_literatures_target_is_ours() -> None:
    """(1 − 2t)/(2t(1 − t)) (x_t − (1 − t) x0 − t x1) + x1 − x0."""
    x0, x1, noise = (part[:100] for part in ends(0.2))
    t = torch.linspace(0.01, 0.99, 100, dtype=torch.float64)
    x, u = PATHS.build("sb-cfm").point(x0, x1, t, noise)
    t = t[:, None]
    assert torch.allclose(
        u, (1 - 2 * t) / (2 * t * (1 - t)) * (x - (1 - t) * x0 - t * x1) + x1 - x0, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(("path", "sigma"), [("icfm", 0.1), ({"name": "icfm", "sigma": 0.3}, 0.3)])
def test_independent_flow_matching_is_a_line_of_constant_width(path: str | dict[str, object], sigma: float) -> None:
    """(1 − t) x0 + t x1 + σ ε, target x1 − x0; σ = 0.1 as in the paper."""
    x0, x1, noise = (part[:100] for part in ends(0.2))
    t = torch.linspace(0, 1, 100, dtype=torch.float64)
    x, u = PATHS.build(path).point(x0, x1, t, noise)
    t = t[:, None]
    assert torch.allclose(x, (1 - t) * x0 + t * x1 + sigma * noise, rtol=1e-12, atol=1e-12)
    assert torch.allclose(u, x1 - x0, rtol=1e-12, atol=1e-12)
