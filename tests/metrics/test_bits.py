"""bits_per_dim where it is known exactly: uniform and Gaussian densities of flows that only scale or rotate."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.data import DATA
from fmbench.errors import Skip
from fmbench.metrics import bits, likelihood
from fmbench.metrics.base import Evidence
from fmbench.metrics.bits import BitsPerDim, dequantised, offset

DIGITS = DATA.build("digits")
L, D, N = 17, 64, 500
RATE = 0.3  # of v = RATE x, which takes a box of half-width e^(−RATE) to [−1, 1]
SCALES = {"divergence": "hutchinson"}  # its Jacobian is diagonal: every Rademacher probe finds the exact divergence


def seen(scale: float = RATE, log_density=None, n: int = N, **changes: object) -> Evidence:
    """Digits under v = scale · x, from a source that is uniform on the box that this takes to [−1, 1]."""
    uniform = lambda z: torch.full((len(z),), -D * math.log(2 * math.exp(-scale)), dtype=torch.float64)  # noqa: E731
    known = {"velocity": lambda t, x: scale * x, "source_log_density": log_density or uniform, "data": DIGITS}
    return GaussianFlow((0.0,), (1.0,)).evidence(n, **{**known, **changes})


def test_a_uniform_density_costs_the_bits_of_a_level() -> None:
    """p = 2^−D on [−1, 1]^D: 1 bit a dimension and log2(L / 2) more, log2 L in all; no image differs from another."""
    found = BitsPerDim(steps=5, **SCALES).measure(seen())
    assert found.value == pytest.approx(math.log2(L), abs=1e-6)
    assert found.stderr < 1e-7
    assert found.n == N


@pytest.mark.parametrize("scale", [1.1, 0.9])
def test_a_twin_with_another_offset_is_rejected(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "offset", lambda data: math.log2(data.levels / 2 * scale))
    with pytest.raises(AssertionError):
        test_a_uniform_density_costs_the_bits_of_a_level()
    monkeypatch.setattr(bits, "offset", lambda data: 0.0)
    with pytest.raises(AssertionError):
        test_a_uniform_density_costs_the_bits_of_a_level()


S = 0.5


def gaussian(draws: int = 8) -> None:
    """p1 = N(0, S²): −log p is quadratic, and E (c + r)² = c² + 1 / (3 L²) over a cell of centre c and width 2 / L."""

    def log_density(z: Tensor) -> Tensor:
        s = S * math.exp(-RATE)
        return -0.5 * (z.double().flatten(1) / s).square().sum(1) - D * math.log(s * math.sqrt(2 * math.pi))

    found = BitsPerDim(steps=5, draws=draws, **SCALES).measure(seen(log_density=log_density))
    k = ((DIGITS.take("test", N, 0).double() + 1) * 8).flatten(1)
    centre = 2 * (k + 0.5) / L - 1
    nats = 0.5 * (centre.square() + 1 / (3 * L**2)) / S**2 + math.log(S * math.sqrt(2 * math.pi))
    expected = nats.mean(1) / math.log(2) + math.log2(L / 2)
    # of the dequantisation alone: c r / S² and r² / (2 S²), with r uniform within 1 / L of 0
    noise = (centre.square().mean() / (3 * L**2) + 4 / 45 / L**4 / 4).sqrt().item() / S**2 / math.log(2)
    assert abs(found.value - expected.mean().item()) < 4 * noise / math.sqrt(N * D * draws)
    assert found.stderr == pytest.approx(expected.std().item() / math.sqrt(N), rel=0.02)


def test_a_gaussian_density_costs_what_it_should() -> None:
    gaussian()


@pytest.mark.parametrize("u", [0.0, 0.5])
def test_a_twin_that_does_not_dequantise_is_rejected(u: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bits, "dequantised", lambda images, levels, *_: 2 * (((images + 1) * (levels - 1) / 2).round() + u) / levels - 1
    )
    with pytest.raises(AssertionError):
        gaussian()


def test_bytes_are_dequantised_as_the_literature_does() -> None:
    """(u + 255 · image) / 256 on [0, 1], then 2x − 1; + 7 bits."""
    levels = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16).expand(40, -1, -1, -1)
    x = dequantised(levels / 127.5 - 1, 256, seed=3)
    u = (x + 1) * 128 - levels
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1 + 1e-4
    assert u.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * u.numel()))
    assert torch.equal(x[:7], dequantised(levels[:7] / 127.5 - 1, 256, seed=3))
    assert not torch.equal(x, dequantised(levels / 127.5 - 1, 256, seed=3, draw=1))
    assert not torch.equal(x, dequantised(levels / 127.5 - 1, 256, seed=4))
    assert offset(DATA.build("cifar10")) == 7


def test_the_error_is_that_of_the_probes_where_nothing_else_varies() -> None:
    """Uniform density, v = A x: images cost the same, e·A e varies by 2 (‖S‖² − Σ S_ii²), S the symmetric part of A."""
    a = torch.randn(D, D, generator=torch.Generator().manual_seed(0)) / 50

    def field(t: Tensor, x: Tensor) -> Tensor:
        return (x.flatten(1) @ a.T.to(x)).reshape(x.shape)

    flat = lambda z: torch.zeros(len(z), dtype=torch.float64)  # noqa: E731
    evidence = seen(velocity=field, log_density=flat)
    symmetric = 0.5 * (a + a.T)
    spread = math.sqrt(2 * (symmetric.square().sum() - symmetric.diag().square().sum()).item()) / (D * math.log(2))
    exact = a.trace().item() / (D * math.log(2)) + math.log2(L / 2)
    for probes, draws in ((1, 1), (4, 1), (2, 2)):
        found = BitsPerDim(steps=2, divergence="hutchinson", probes=probes, draws=draws).measure(evidence)
        assert found.stderr == pytest.approx(spread / math.sqrt(N * probes * draws), rel=0.15)
        assert abs(found.value - exact) < 4 * found.stderr
        assert found.n == N
        known = found.stderr if probes > 1 else math.inf  # one probe an image shows no spread
        assert found.probe_stderr == pytest.approx(known, rel=0.2)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = BitsPerDim(n=60, steps=4, divergence="hutchinson", draws=2)
    evidence = seen(velocity=lambda t, x: torch.sin(x + t))
    whole = metric.measure(evidence)
    for name, value in (("CHUNK", 7), ("CHUNK_NUMBERS", 5 * D)):
        monkeypatch.setattr(likelihood, name, value)
        part = metric.measure(evidence)
        assert (part.value, part.stderr) == pytest.approx((whole.value, whole.stderr), rel=1e-6)


def test_what_has_no_levels_is_skipped() -> None:
    with pytest.raises(Skip, match="no grey levels"):
        BitsPerDim().measure(GaussianFlow((0.0,), (1.0,)).evidence(5))
    assert not BitsPerDim().has_floor(DIGITS)


def test_the_row_says_how_it_was_made() -> None:
    """Probes, tolerance and dequantisations, at their defaults too; not the steps, which differ from flow to flow."""
    evidence = seen(velocity=lambda t, x: torch.sin(x + t), tolerance=1e-5)
    exact = BitsPerDim(n=4).measure(evidence)
    held = "RK4, the reference solve's steps, held to 1e-05 standard deviations of the data"
    assert exact.protocol == f"exact divergence; {held}; 1 dequantisation an image"
    metric = BitsPerDim(n=4, steps=2, divergence="hutchinson", probes=2, noise="gaussian", draws=3)
    assert metric.measure(evidence).protocol == "2 gaussian probes an image; RK4, 2 steps; 3 dequantisations an image"
    assert BitsPerDim.version == 2, "rows of before lack it"


def test_the_label_says_how_it_was_estimated() -> None:
    assert BitsPerDim(n=9).label() == "bits_per_dim"
    assert BitsPerDim(probes=4, draws=2).label() == "bits_per_dim[draws=2,probes=4]"
