"""What every metric must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.data import DATA
from fmbench.data.toys import Normal
from fmbench.errors import Skip
from fmbench.metrics import METRICS, Metric
from fmbench.randomness import generator
from fmbench.statistics import Estimate

EVERY = [METRICS.build(name) for name in METRICS.names()]
FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))
WITHOUT_SPREAD = {"nfe", "distinct_pairs", "coupling_label_skew"}  # here: counts, and one label that can skew nothing
DIGITS = DATA.build("digits")
each = pytest.mark.parametrize("metric", EVERY, ids=[metric.name for metric in EVERY])


def measured(metric: Metric, n: int) -> Estimate:
    """On points of the plane or, where the metric is for images or for labels, on digits."""
    # not quite the exact field: what compares fields has something to measure
    try:
        return metric.measure(FLOW.evidence(n, velocity=lambda t, x: 1.1 * FLOW.velocity_at(t, x)))
    except Skip:
        noise = 0.5 * torch.randn(n, *DIGITS.shape, generator=generator("noise"))
        known = {"generated": DIGITS.take("train", n) + noise, "label": DIGITS.take_labels("train", n), "data": DIGITS}
        flat = Normal(dims=DIGITS.shape)
        known |= {"source": flat, "source_log_density": flat.log_density, "velocity": lambda t, x: x.sin(), "reference_steps": 1}
    try:
        return metric.measure(FLOW.evidence(n, **known))
    except Skip as reason:
        pytest.skip(str(reason))


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
        assert measured(small, 150).n in whole


@each
def test_measures_a_finite_value_from_the_evidence_alone(metric: Metric) -> None:
    before = torch.get_rng_state()
    one, two = (measured(metric, 150) for _ in range(2))
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
