"""Measuring: what a metric gets to see of a cell, the density of the start, floors."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from toy_flows import flow, gaussian

from fmbench.data import DATA
from fmbench.errors import Skip
from fmbench.flow import COUPLINGS, PATHS
from fmbench.flow.velocity import Velocity
from fmbench.memory import PeakMemory
from fmbench.metrics import METRICS
from fmbench.metrics.base import Geometry, Resources
from fmbench.randomness import generator
from fmbench.solvers import SOLVERS
from fmbench.stages.flow import PairsSpec, velocity_field
from fmbench.stages.measure import FloorSpec, PairingSpec, alone, coupled, evidence, exact_field, start_log_density
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
    assert isinstance(seen.velocity, Velocity)
    assert (seen.velocity.field, seen.seed, seen.reference_steps) == (field, 11, 64)
    assert (seen.conditional, seen.labelled) == (None, None)
    assert seen.end_time == spec.flow.path.end_time
    assert seen.reference_grid is not None
    assert torch.equal(seen.reference_grid(10), reference_times(spec.flow.path, 10))


@pytest.mark.parametrize("coupling", COUPLINGS.names())
def test_fresh_pairs_are_nested_and_as_training_draws_them(coupling: str) -> None:
    data, source = DATA.build("moons"), DATA.build("normal")
    draw = coupled(data, source, COUPLINGS.build(coupling), 64, seed=3)
    x0, x1 = draw(100)
    assert x0.shape == x1.shape == (100, 2)
    assert torch.equal(draw(150)[1][:100], x1)
    rng = generator("coupled", 3, 0)
    assert torch.equal(data.draw(64, rng)[0].sort(0).values, x1[:64].sort(0).values) or coupling == "sinkhorn"
    assert not torch.equal(coupled(data, source, COUPLINGS.build(coupling), 64, seed=4)(100)[1], x1)


def test_pairs_of_a_reflow_round_are_its_own_without_repetition() -> None:
    data, source, independent = DATA.build("moons"), DATA.build("normal"), COUPLINGS.build("independent")
    z0, z1 = torch.arange(10.0)[:, None], -torch.arange(10.0)[:, None]
    draw = coupled(data, source, independent, 64, seed=0, pairs=(z0, z1))
    x0, x1 = draw(10)
    assert torch.equal(x0, -x1)
    assert sorted(x0.flatten().tolist()) == list(range(10))
    with pytest.raises(Skip, match="11 pairs asked for, the round was trained on 10"):
        draw(11)


def test_a_reflow_round_pairs_no_minibatches() -> None:
    source = flow().source
    made = {"data": flow().data, "source": source, "coupling": flow().coupling, "batch": 64, "sample_seed": 0}
    rectified = PairsSpec(flow=flow(), n=64, solver=SOLVERS.build("dopri5"))
    z0, z1 = torch.zeros(64, 2), torch.ones(64, 2)
    cost = METRICS.build({"name": "train_coupling_cost", "n": 64})
    assert alone(PairingSpec(**made, pairs=rectified, metric=cost), (z0, z1)).value == 2
    distinct = METRICS.build({"name": "distinct_pairs", "n": 64})
    assert alone(PairingSpec(**made, pairs=None, metric=distinct)).value == 1
    with pytest.raises(Skip, match="reflow round trains on fixed pairs"):
        alone(PairingSpec(**made, pairs=rectified, metric=distinct), (z0, z1))


def test_the_exact_field_is_known_for_mixtures_and_not_for_what_no_oracle_knows() -> None:
    spec = gaussian("rectified")
    known = exact_field(spec)
    x, t = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor(0.3, dtype=torch.float64)
    assert known is not None
    assert torch.equal(known(t, x), velocity_field(spec, None)(t, x))
    assert exact_field(flow(data="moons")) is None
    assert exact_field(flow(coupling="minibatch-ot")) is None


def test_floors() -> None:
    def spec(metric: str) -> FloorSpec:
        return FloorSpec(data=DATA.build("moons"), metric=METRICS.build(metric), n=200, sample_seed=0)

    estimate = alone(spec("w2"))
    assert 0 < estimate.value < 1
    assert estimate == alone(spec("w2"))
    with pytest.raises(Skip, match="'nfe' has no floor on data set 'moons'"):
        alone(spec("nfe"))


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
