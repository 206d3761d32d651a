"""What every metric must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gaussian_flow import GaussianFlow
from small_images import SmallImages, evidence, images
from torch import Tensor

from fmbench.data import DATA, Data
from fmbench.data.toys import Normal
from fmbench.errors import Skip, Unavailable, UserError
from fmbench.metrics import METRICS, Metric
from fmbench.metrics.base import Evidence, PerSampleMetric, TwoSampleMetric
from fmbench.metrics.fid import FID, FeatureMetric
from fmbench.randomness import generator
from fmbench.statistics import Estimate

OWN = {"features": "channel-means"}
PARAMETERS = {  # of image metrics, so that they measure 24 images without weights
    "fd_own": OWN, "fd_infinity": OWN, "precision": OWN, "recall": OWN, "kid": {**OWN, "size": 12, "subsets": 5},
}  # fmt: skip
EVERY = [METRICS.build({"name": name, **PARAMETERS.get(name, {})}) for name in METRICS.names()]
FLOW = GaussianFlow((1.0, -0.5), (0.5, 2.0))
WITHOUT_SPREAD = {
    "flops",
    "nfe",
    "distinct_pairs",
    "coupling_label_skew",
}  # here: counts, and one label that can skew nothing
COUNTS = {"precision", "recall"}  # shares of a few images: two draws may agree
DIGITS = DATA.build("digits")
each = pytest.mark.parametrize("metric", EVERY, ids=[metric.name for metric in EVERY])


def many(metric: Metric) -> int:
    return 24 if isinstance(metric, FeatureMetric) else 150


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Networks take long: what they compute is tested where each of them is."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("fmbench.metrics.features.effnet._file", lambda: None)
    monkeypatch.delenv("FMBENCH_INCEPTION_WEIGHTS", raising=False)


@contextlib.contextmanager
def needing_weights() -> Iterator[None]:
    try:
        yield
    except Unavailable as lacking:
        pytest.skip(str(lacking))


def measured(metric: Metric, n: int) -> Estimate:
    """On points of the plane or, where the metric is for images or for labels, on images."""
    if isinstance(metric, FeatureMetric):
        with needing_weights():
            return metric.measure(evidence(images(n, "generated")))
    # not quite the exact field: what compares fields has something to measure
    try:
        return metric.measure(FLOW.evidence(n, velocity=lambda t, x: 1.1 * FLOW.velocity_at(t, x)))
    except Skip:
        noise = 0.5 * torch.randn(n, *DIGITS.shape, generator=generator("noise"))
        known = {"generated": DIGITS.take("train", n) + noise, "label": DIGITS.take_labels("train", n), "data": DIGITS}
        flat = Normal(dims=DIGITS.shape)
        known |= {
            "source": flat,
            "source_log_density": flat.log_density,
            "velocity": lambda t, x: x.sin(),
            "reference_steps": 1,
        }
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
    assert metric.name in PARAMETERS or metric.label() == metric.name
    if "n" in type(metric).model_fields and not isinstance(metric, FID):  # whose number is part of its name
        fewer = many(metric) - 2
        small = METRICS.build({**metric.spec(), "n": fewer})
        assert small.label() == metric.label(), "n has a column of its own"
        assert METRICS.build(small.spec()) == small
        whole = (fewer, 192) if metric.scope == "coupling" else (fewer,)  # minibatches of 64
        assert measured(small, many(metric)).n in whole


@pytest.mark.parametrize("metric", [m for m in EVERY if getattr(m, "most", None)], ids=lambda metric: metric.name)
def test_what_a_default_n_is_held_to_is_said_and_stated(
    metric: TwoSampleMetric, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sides(self: TwoSampleMetric, x: Tensor, y: Tensor) -> Estimate:
        return Estimate(len(y), 1.0, len(x))

    monkeypatch.setattr(type(metric), "distance", sides)
    assert metric.most is not None
    assert f"up to {metric.most:,}" in " ".join((type(metric).__doc__ or "").split())
    for n, taken in ((20, 20), (metric.most + 1, metric.most)):
        assert metric.measure(FLOW.evidence(n)) == metric.floor(FLOW.data, n, 0) == Estimate(taken, 1.0, taken)


@each
def test_measures_a_finite_value_from_the_evidence_alone(metric: Metric) -> None:
    before = torch.get_rng_state()
    one, two = (measured(metric, many(metric)) for _ in range(2))
    assert one == two or metric.unit == "ms"
    assert math.isfinite(one.value)
    assert one.stderr > 0 or metric.name in WITHOUT_SPREAD
    assert one.n == many(metric) or metric.scope == "coupling"
    assert torch.equal(before, torch.get_rng_state())


@each
def test_floor_is_of_the_data_alone(metric: Metric) -> None:
    data: Data = SmallImages() if isinstance(metric, FeatureMetric) else FLOW.data
    n = many(metric)
    with needing_weights():
        floor = metric.floor(data, n, 0)
    assert floor is not None or not metric.has_floor(data)
    if floor is None:
        return
    assert floor == metric.floor(data, n, 0)
    assert floor != metric.floor(data, n, 1) or metric.name in COUNTS
    assert floor.n == n


@pytest.mark.parametrize(
    ("given", "said"),
    [(0.5, "gives float"), (torch.ones(()), r"gives a tensor of shape \(\)"), (None, "gives NoneType")],
)
def test_what_a_metric_s_method_must_give_is_told_where_it_is_called(given: object, said: str) -> None:
    class Clumsy(PerSampleMetric):
        name = "clumsy"
        unit = "1"

        def per_sample(self, geometry: object) -> Tensor:
            return given  # type: ignore[return-value]

        def measure(self, evidence: Evidence) -> Estimate:
            return given if evidence is None else super().measure(evidence)  # type: ignore[return-value]

    class Distant(TwoSampleMetric):
        name = "distant"
        unit = "1"

        def distance(self, x: Tensor, y: Tensor) -> Estimate:
            return given  # type: ignore[return-value]

    seen = evidence(images(8))
    with pytest.raises(UserError, match=f"metric 'clumsy': measure {said}, not an Estimate"):
        Clumsy().measure(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"metric 'clumsy': per_sample {said}, not a tensor \\(n,\\)"):
        Clumsy().measure(seen)
    with pytest.raises(UserError, match=f"metric 'distant': distance {said}, not an Estimate"):
        Distant().measure(seen)
