"""What every metric must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.errors import Skip
from fmbench.metrics import METRICS, Metric

EVERY = [METRICS.build(name) for name in METRICS.names()]
FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))
IMAGES = {"bits_per_dim"}  # whose own tests measure them, on images
WITHOUT_SPREAD = {"nfe", "distinct_pairs", "coupling_label_skew"}  # here: counts, and one label that can skew nothing
each = pytest.mark.parametrize("metric", EVERY, ids=[metric.name for metric in EVERY])


@each
def test_facts(metric: Metric) -> None:
    assert metric.unit
    assert metric.source
    assert metric.scope in ("samples", "flow", "coupling")
    assert metric.higher_is_better in (True, False, None)
    assert type(metric).__doc__ != Metric.__doc__
    assert METRICS.get(metric.name) is type(metric)


@each
def test_spec_and_label_round_trip(metric: Metric) -> None:
    assert METRICS.build(metric.spec()) == metric
    assert metric.label() == metric.name
    if "n" in type(metric).model_fields:
        small = METRICS.build({"name": metric.name, "n": 123})
        assert small.label() == metric.name, "n has a column of its own"
        assert METRICS.build(small.spec()) == small
        whole = (123, 128) if metric.scope == "coupling" else (123,)  # minibatches of 64
        assert small.measure(FLOW.evidence(150)).n in whole


@each
def test_measures_a_finite_value_from_the_evidence_alone(metric: Metric) -> None:
    before = torch.get_rng_state()
    # not quite the exact field: what compares fields has something to measure
    seen = {"velocity": lambda t, x: 1.1 * FLOW.velocity_at(t, x)}
    one, two = (metric.measure(FLOW.evidence(150, **seen)) for _ in range(2))
    assert one == two or metric.unit == "ms"
    assert math.isfinite(one.value)
    assert one.stderr > 0 or metric.name in WITHOUT_SPREAD
    assert one.n == 150 or metric.scope == "coupling"
    assert torch.equal(before, torch.get_rng_state())


@each
def test_floor_is_of_the_data_alone(metric: Metric) -> None:
    floor = metric.floor(FLOW.data, 150, 0)
    if floor is None:
        return
    assert floor == metric.floor(FLOW.data, 150, 0)
    assert floor != metric.floor(FLOW.data, 150, 1)
    assert floor.n == 150
