"""Measuring: what a metric gets to see of a cell, the density of the start, floors."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from toy_flows import flow, gaussian

from fmbench.data import DATA
from fmbench.errors import Skip
from fmbench.flow import PATHS
from fmbench.metrics import METRICS
from fmbench.metrics.base import Geometry, Resources
from fmbench.stages.flow import velocity_field
from fmbench.stages.measure import FloorSpec, evidence, floor, start_log_density
from fmbench.stages.memory import PeakMemory
from fmbench.stages.sample import ReferenceSpec, reference_times


@pytest.mark.parametrize("path", PATHS.names())
def test_the_start_has_the_density_of_the_scaled_source(path: str) -> None:
    spec = gaussian(path)
    sigma = spec.path.schedule(torch.zeros((), dtype=torch.float64)).sigma.item()
    z = sigma * torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, sigma).log_prob(z).sum(1)
    assert torch.allclose(start_log_density(spec)(z), expected, rtol=1e-6)


def test_an_unknown_source_has_no_density() -> None:
    spec = flow().model_copy(update={"source": DATA.build("moons")})
    with pytest.raises(Skip, match="density of source 'moons' is not known"):
        start_log_density(spec)(torch.zeros(3, 2))


def test_evidence_is_the_cells() -> None:
    spec = ReferenceSpec(flow=gaussian("vp-linear"), n=4, batch=4, sample_seed=11)
    x, zero = torch.ones(4, 3), torch.zeros(4, dtype=torch.float64)
    geometry = Geometry(x, 2 * x, x, zero, zero, zero, error=0.0)
    resources, field = Resources(8, (0.1,), None), velocity_field(spec.flow, None)
    seen = evidence(spec, x, geometry, resources, field, steps=64)
    assert (seen.data, seen.generated, seen.geometry, seen.resources) == (spec.flow.data, x, geometry, resources)
    assert (seen.velocity, seen.seed, seen.reference_steps) == (field, 11, 64)
    assert seen.end_time == spec.flow.path.end_time
    assert seen.reference_grid is not None
    assert torch.equal(seen.reference_grid(10), reference_times(spec.flow.path, 10))


def test_floors() -> None:
    def spec(metric: str) -> FloorSpec:
        return FloorSpec(data=DATA.build("moons"), metric=METRICS.build(metric), n=200, sample_seed=0)

    estimate = floor(spec("w2"))
    assert 0 < estimate.value < 1
    assert estimate == floor(spec("w2"))
    with pytest.raises(Skip, match="'nfe' has no floor on data set 'moons'"):
        floor(spec("nfe"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the high-water mark is Linux's")
def test_peak_memory_sees_what_was_taken_and_given_back() -> None:
    with PeakMemory("cpu") as idle:
        pass
    if idle.peak_mb is None:
        pytest.skip("this kernel does not let us reset the high-water mark")
    with PeakMemory("cpu") as busy:
        block = torch.ones(200 * 2**18)  # 200 MiB, every page touched
        del block
    with PeakMemory("cpu") as after:
        pass
    assert busy.peak_mb == pytest.approx(200, abs=15)
    assert idle.peak_mb < 15
    assert after.peak_mb < 15, "the mark was not reset"


def test_peak_memory_is_unknown_where_it_cannot_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.write_text", refused)
    with PeakMemory("cpu") as memory:
        pass
    assert memory.peak_mb is None
    assert not math.isfinite(memory.peak_mb or math.inf)
