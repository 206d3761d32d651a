"""What sampling costs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.errors import Skip
from fmbench.metrics import METRICS, Resources
from fmbench.statistics import Estimate

FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))


def test_solver_error_of_a_known_offset() -> None:
    evidence = FLOW.evidence(200)
    metric = METRICS.build("solver_error")
    off = FLOW.evidence(200, generated=evidence.generated[:150] + 0.3)
    estimate = metric.measure(off)
    assert estimate.value == pytest.approx(0.3, rel=1e-5)  # per dimension: √(D 0.3² / D)
    assert estimate.stderr < 1e-6
    assert estimate.n == 150
    same = metric.measure(FLOW.evidence(200, generated=evidence.geometry.z1))
    assert (same.value, same.stderr) == (0.0, math.inf)
    stretched = FLOW.evidence(200, generated=1.1 * evidence.geometry.z1)
    right = 0.1 * evidence.geometry.z1.square().mean().sqrt().item()
    assert metric.measure(stretched).value == pytest.approx(right)
    assert 0 < metric.measure(stretched).stderr < 0.2 * right


def test_what_the_reference_does_not_resolve_is_in_the_standard_error() -> None:
    evidence = FLOW.evidence(200)
    metric = METRICS.build("solver_error")
    doubtful = replace(evidence.geometry, error=0.05)
    off = {"generated": evidence.geometry.z1 + 0.3}
    assert metric.measure(FLOW.evidence(200, geometry=doubtful, **off)).stderr == pytest.approx(0.05, rel=1e-3)
    unknown = replace(evidence.geometry, error=math.inf)
    assert metric.measure(FLOW.evidence(200, geometry=unknown, **off)).stderr == math.inf


def test_the_worst_sample() -> None:
    evidence = FLOW.evidence(200)
    generated = evidence.geometry.z1 + 0.1
    generated[17] += torch.tensor([0.3, -0.6])
    estimate = METRICS.build("solver_error_worst").measure(FLOW.evidence(200, generated=generated))
    assert estimate.value == pytest.approx(math.sqrt((0.4**2 + 0.5**2) / 2), rel=1e-4)
    assert (estimate.stderr, estimate.n) == (math.inf, 200)


def test_times_and_counts() -> None:
    evidence = FLOW.evidence(100)

    def measure(name: str, **changes: object) -> Estimate:
        resources = Resources(**{"nfe": 8.0, "seconds": (0.4, 0.6), "peak_memory_mb": 12.0, **changes})
        return METRICS.build(name).measure(FLOW.evidence(100, geometry=evidence.geometry, resources=resources))

    assert measure("nfe") == Estimate(8.0, 0.0, 100)
    assert measure("seconds").value == pytest.approx(0.5)
    assert measure("seconds").stderr == pytest.approx(0.1)
    assert measure("seconds", seconds=(0.4,)).stderr == math.inf
    assert measure("samples_per_second").value == pytest.approx(200)
    assert measure("samples_per_second").stderr == pytest.approx(40)
    assert measure("peak_memory_mb") == Estimate(12.0, math.inf, 100)
    with pytest.raises(Skip, match="peak memory"):
        measure("peak_memory_mb", peak_memory_mb=None)
    with pytest.raises(Skip, match="clock"):
        measure("samples_per_second", seconds=(0.0, 0.0))
