"""The network behind fid, on random weights of its true architecture: nothing computed here is a FID."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from inception import write_weights
from small_images import SmallImages, evidence, images
from torch import Tensor
from torch.utils.data import Dataset

from fmbench.errors import Unavailable, UserError
from fmbench.metrics import METRICS
from fmbench.metrics.features.base import eight_bits, loaded
from fmbench.metrics.features.inception import (
    ENVIRONMENT,
    SHA256,
    InceptionCompat,
    InceptionOther,
    fetched,
)
from fmbench.metrics.features.summary import CHUNK, summarise
from fmbench.metrics.fid import FID, distance
from fmbench.metrics.frechet import frechet_distance, moments
from fmbench.metrics.inception_score import InceptionScore
from fmbench.metrics.kid import KID
from fmbench.metrics.manifold import Precision, Recall
from fmbench.randomness import generator

N = 6  # images a side


class Bytes(Dataset):  # type: ignore[type-arg]
    """uint8 images, as torch-fidelity takes a data set."""

    def __init__(self, x: Tensor):
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        return self.x[i]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "random.pth")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_values_are_torch_fidelitys_own(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same bytes and weights, 1e-5 relative: Fréchet distance, KID, inception score, precision, recall."""
    import torch_fidelity

    monkeypatch.setenv(ENVIRONMENT, str(weights))
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 0)  # no worker processes for a few images
    x, y = images(N, "generated"), images(N, "real")
    theirs = torch_fidelity.calculate_metrics(
        input1=Bytes(eight_bits(x)), input2=Bytes(eight_bits(y)), cuda=False, batch_size=N, verbose=False, cache=False,
        fid=True, kid=True, isc=True, prc=True, kid_subsets=3, kid_subset_size=4, isc_splits=3,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    ours, real = (summarise(side, InceptionOther()) for side in (x, y))
    features = "inception-v3-other"
    assert distance(ours, real).value == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    kid = KID(features=features, subsets=3, size=4).compare(ours, real)
    assert kid.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5, abs=1e-9)
    assert Precision(features=features).compare(ours, real).value == pytest.approx(theirs["precision"])
    assert Recall(features=features).compare(ours, real).value == pytest.approx(theirs["recall"])
    network = loaded(InceptionOther(), "cpu")
    monkeypatch.setattr(
        "fmbench.metrics.inception_score.stream", lambda *_: [(ours.kept, network)]
    )  # not a second time
    score = InceptionScore(features=features, splits=3).measure(evidence(x))
    assert score.value == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert str(InceptionOther().weights()) in (score.protocol or "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_values_are_torch_fidelitys_own_of_more_images(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """48 a side, in batches that do not divide them. Of fewer images than dimensions the Fréchet distance is exact here, by the
    singular values of the features' product; theirs adds the roots of eigenvalues that only rounding keeps from 0.
    """
    import torch_fidelity

    monkeypatch.setenv(ENVIRONMENT, str(weights))
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 0)
    x, y = images(48, "generated"), images(48, "real")
    theirs = torch_fidelity.calculate_metrics(
        input1=Bytes(eight_bits(x)), input2=Bytes(eight_bits(y)), cuda=False, batch_size=20, verbose=False, cache=False,
        fid=True, kid=True, kid_subsets=10, kid_subset_size=32, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip
    ours, real = (summarise(side, InceptionOther()) for side in (x, y))
    kid = KID(features="inception-v3-other", subsets=10, size=32).compare(ours, real)
    assert kid.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5, abs=1e-9)
    a, b = ours.kept.double(), real.kept.double()
    spread = [(side - side.mean(0)) / math.sqrt(47) for side in (a, b)]
    traces = sum(side.square().sum() for side in spread)
    exact = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * torch.linalg.svdvals(spread[0] @ spread[1].T).sum()
    assert distance(ours, real).value == pytest.approx(exact.item(), rel=1e-9)
    assert theirs["frechet_inception_distance"] == pytest.approx(exact.item(), rel=2e-4)
    monkeypatch.setitem(CHUNK, "cpu", 7)
    torch.testing.assert_close(summarise(x[:20].clone(), InceptionOther()).kept, ours.kept[:20], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_of_more_images_than_dimensions_theirs_is_exact_too() -> None:
    """2,300 rows of 2,048 features, as of real images: theirs and ours agree far beyond the 1e-5 that is asked."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    rng, scale = generator("features of full rank"), torch.logspace(0, -2, 2048)
    x, y = (spread * scale * torch.randn(2300, 2048, generator=rng) + shift for spread, shift in ((1, 0), (1.1, 0.05)))
    statistics = [fid_features_to_statistics(side.double()) for side in (x, y)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    ours = frechet_distance(*moments(x.double()), *moments(y.double()))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_another_file_never_makes_a_fid(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(weights))
    for make in (FID().identity, InceptionCompat().network, KID().identity):
        with pytest.raises(UserError, match=r"no other file makes a fid.*inception-v3-other"):
            make()
    other = METRICS.build({"name": "fd_own", "features": "inception-v3-other"})
    assert other.label() == "fd_inception-v3-other"
    before = other.identity()
    monkeypatch.setenv(ENVIRONMENT, str(write_weights(tmp_path / "again.pth", seed=1)))
    assert other.identity() != before, "the weights' sha256 is part of the key"
    monkeypatch.delenv(ENVIRONMENT)
    assert FID().identity()["extractor"]["weights"] == SHA256
    with pytest.raises(Unavailable, match="has no weights of its own"):
        InceptionOther().network()
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="no Inception weights at"):
        InceptionOther().network()
    (tmp_path / "junk.pth").write_bytes(b"no weights")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "junk.pth"))
    with pytest.raises(UserError, match=r"junk\.pth holds no weights of torch-fidelity's Inception v3"):
        InceptionOther().network()


def test_a_damaged_download_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half of it")
    with pytest.raises(Unavailable, match="is not torch-fidelity's published file"):
        fetched()


@pytest.mark.slow
def test_golden_inception_score_of_cifar10() -> None:
    """What torch-fidelity documents for CIFAR-10's training set: inception score 11.23678 ± 0.09514, FID 0 to itself."""
    from fmbench.data import DATA

    try:
        InceptionCompat().network()
        data = DATA.build("cifar10")
        train = data.take("train", None)
    except (Unavailable, UserError) as missing:
        pytest.skip(f"needs the official weights and CIFAR-10: {missing}")
    score = InceptionScore()._against(data, train)
    assert score.value == pytest.approx(11.23678, abs=1e-3)
    assert score.stderr * math.sqrt(9) == pytest.approx(0.09514, abs=1e-3), "theirs is the deviation of ten groups"
    assert FID()._against(data, train).value == pytest.approx(0, abs=1e-3)


def test_small_images_are_what_the_tests_take_them_for() -> None:
    assert torch.equal(
        eight_bits(SmallImages().take("train", None)).float() / 127.5 - 1, SmallImages().take("train", None)
    )
