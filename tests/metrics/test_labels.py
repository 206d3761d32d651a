"""Label accuracy: a share that is known by construction, its floor, and a broken twin."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_flow import GaussianFlow

from fmbench.data import DATA
from fmbench.errors import Skip
from fmbench.metrics.base import Evidence
from fmbench.metrics.labels import LabelAccuracy
from fmbench.statistics import Estimate

FAR = DATA.build(
    {"name": "gaussian-mixture", "means": [[-9, 0], [0, 9], [9, 0]], "stds": 0.3, "weights": [0.5, 0.3, 0.2]}
)


def asked(wrong: int, n: int = 400) -> Evidence:
    """n real samples of three classes that nobody confuses; the first `wrong` were asked to be of the next class."""
    x, label = FAR.take("test", n), FAR.take_labels("test", n)
    label = torch.where(torch.arange(n) < wrong, (label + 1) % 3, label)
    return GaussianFlow((0.0, 0.0), (1.0, 1.0)).evidence(4, data=FAR, generated=x, label=label)


@pytest.mark.parametrize("wrong", [0, 100, 400])
def test_the_share_is_counted(wrong: int) -> None:
    estimate = LabelAccuracy(references=2000).measure(asked(wrong))
    assert (estimate.value, estimate.n) == (1 - wrong / 400, 400)
    assert 0 < estimate.stderr < 0.03
    if wrong == 100:
        assert estimate.stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 400), rel=0.02)


def test_a_twin_that_compares_the_shares_of_classes_is_blind() -> None:
    """It asks how many samples of each class there are, not which."""

    def twin(evidence: Evidence) -> Estimate:
        wanted, there = (torch.bincount(label, minlength=3) for label in (evidence.label, FAR.take_labels("test", 400)))
        return Estimate(torch.minimum(wanted, there).sum().item() / 400, 0.1, 400)

    seen = asked(400)
    assert LabelAccuracy(references=500).measure(seen).value == 0
    assert twin(seen).value > 0.5


def test_the_floor_is_what_real_digits_reach() -> None:
    metric, digits = LabelAccuracy(), DATA.build("digits")
    assert metric.has_floor(digits)
    floor = metric.floor(digits, 10_000, 0)
    assert floor.n == 500
    assert floor.protocol == "vote of the 5 nearest of 1297 training samples"
    assert 0.95 < floor.value < 1
    assert not metric.has_floor(DATA.build("swiss-roll"))
    assert not metric.has_floor(DATA.build({"name": "gaussian-mixture", "means": [[0, 0]]})), (
        "of one class all are right"
    )


def test_only_the_samples_asked_for_are_counted() -> None:
    estimate = LabelAccuracy(references=500, n=200).measure(asked(100))
    assert (estimate.value, estimate.n) == (0.5, 200)


def test_many_voters_reach_the_bayes_share_and_one_does_not() -> None:
    """Two unit normals at −1 and 1: Φ(1) of the samples lie on their own side."""
    overlapping = DATA.build({"name": "gaussian-mixture", "means": [[-1], [1]], "stds": 1})
    many, one = (LabelAccuracy(k=k, references=4000).floor(overlapping, 1000, 0) for k in (101, 1))
    assert many is not None
    assert one is not None
    bayes = 0.5 * (1 + math.erf(math.sqrt(0.5)))
    assert abs(many.value - bayes) < 4 * many.stderr
    assert one.value < bayes - 4 * one.stderr


def test_an_unconditional_flow_was_asked_for_nothing() -> None:
    seen = GaussianFlow((0.0, 0.0), (1.0, 1.0)).evidence(4, label=None)
    with pytest.raises(Skip, match="not asked to be of any class"):
        LabelAccuracy().measure(seen)
