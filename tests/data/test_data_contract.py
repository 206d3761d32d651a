"""What every data set must keep, known or not yet written: parametrised over the registry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pictures import stood_in

from fmbench.data import DATA
from fmbench.data.base import Data, FiniteData, Split, check_draws
from fmbench.data.pictures import SPLITS, Pictures
from fmbench.data.scaled import ScaledNormal
from fmbench.data.toys import GaussianMixture
from fmbench.errors import UserError
from fmbench.randomness import BLOCK, generator

EVERY = stood_in(DATA.names())
ENDLESS = [data for data in EVERY if not isinstance(data, FiniteData)]
FINITE = [data for data in EVERY if isinstance(data, FiniteData)]
LOPSIDED = GaussianMixture(
    means=((-2, 0.5), (1, -1), (0, 2)), stds=((0.3, 0.7), 0.5, (1, 0.4)), weights=(0.2, 0.5, 0.3)
)
SCALED = ScaledNormal(mean=0.7, std=1.3)
PLANAR = [data for data in ENDLESS if data.shape == (2,)] + [LOPSIDED, SCALED]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One for this whole file: pictures are decoded once."""
    monkeypatch.setenv("FMBENCH_CACHE", str(shared))
    return shared


def named(data: list[Data]) -> dict:
    return {"argvalues": data, "ids": [d.label() for d in data]}


@pytest.mark.parametrize("data", **named([*EVERY, LOPSIDED]))
def test_draws_have_the_shape_are_float32_and_come_from_the_generator_alone(data: Data) -> None:
    before = torch.get_rng_state()
    x, label = data.draw(300, generator("a"))
    again, _ = data.draw(300, generator("a"))
    other, _ = data.draw(300, generator("b"))
    assert x.shape == (300, *data.shape)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert torch.equal(x, again)
    assert not torch.equal(x, other)
    assert (label is None) == (data.classes is None)
    if label is not None:
        assert label.shape == (300,)
        assert label.dtype == torch.int64
        assert set(label.tolist()) == set(range(min(data.classes, 10)))  # of 1,000 classes the stand-ins have ten
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("data", **named(EVERY))
def test_samples_are_nested_in_n_and_differ_by_seed_and_split(data: Data) -> None:
    most = min(data.size("test") or BLOCK + 200, BLOCK + 200)
    many = data.take("test", most, seed=3)
    assert torch.equal(data.take("test", 7, seed=3), many[:7])
    assert torch.equal(data.take("test", most - 1, seed=3), many[:-1])
    assert not torch.equal(data.take("test", most, seed=4), many)
    assert not torch.equal(data.take("train", most, seed=3), many)
    assert len(many.flatten(1).unique(dim=0)) == most


@pytest.mark.parametrize("data", **named(EVERY))
@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_are_those_of_the_samples(data: Data, split: Split) -> None:
    if data.classes is None:
        with pytest.raises(UserError, match=f"'{data.name}' has no labels"):
            data.take_labels(split, 5)
        return
    n = min(data.size(split) or 1100, 1100)
    x, label = data.take(split, n, seed=3), data.take_labels(split, n, seed=3)
    assert label.shape == (n,)
    assert torch.equal(data.take_labels(split, 7, seed=3), label[:7])
    if (law := data.mixture()) is not None:
        assert ((x - law.means[label]).abs() < 6 * law.stds[label]).all()
    elif data.size(split) is not None:
        all_x, all_labels = data.take(split, None), data.take_labels(split, None)
        same = (all_x.flatten(1)[:, None] == x.flatten(1)[:9]).all(2).double().argmax(0)
        assert torch.equal(all_labels[same], label[:9])
    else:
        with pytest.raises(UserError, match="is endless"):
            data.take_labels(split, None)


@pytest.mark.parametrize("data", **named(EVERY))
def test_round_trip_and_plain_label(data: Data) -> None:
    assert DATA.build(data.spec()) == data
    assert data.label() == data.name or (isinstance(data, Pictures) and data.label().startswith(data.name))
    assert type(data).__doc__


@pytest.mark.parametrize("data", **named(EVERY))
def test_moments_are_those_of_the_samples(data: Data) -> None:
    mean, std = data.moments()
    x = data.take("train", None if data.size("train") else 5000, seed=1).double().flatten(1)
    assert abs(mean - x.mean().item()) < 5 * std / math.sqrt(len(x))
    assert std == pytest.approx(x.var(0).mean().sqrt().item(), rel=0.05)
    assert 0.3 < std < 4


@pytest.mark.parametrize("data", **named([data for data in PLANAR if data.log_density(torch.zeros(1, 2)) is not None]))
def test_density_integrates_to_one_and_has_the_samples_moments(data: Data) -> None:
    n, half, steps = 20_000, 9.0, 720  # steps: cell borders of the checkerboard fall between the midpoints
    axis = (torch.arange(steps, dtype=torch.float64) + 0.5) * (2 * half / steps) - half
    grid = torch.cartesian_prod(axis, axis)
    p = data.log_density(grid).exp() * (2 * half / steps) ** 2
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    x = data.take("train", n).double()
    for power in (1, 2):
        values = x**power
        error = values.std(0) / math.sqrt(n)
        assert ((values.mean(0) - p @ grid**power).abs() < 5 * error).all()
    own = data.log_density(x)
    entropy = torch.special.entr(p / (2 * half / steps) ** 2).sum() * (2 * half / steps) ** 2
    assert abs(own.mean() + entropy) < 5 * own.std() / math.sqrt(n) + 1e-6
    assert own.dtype == torch.float64


@pytest.mark.parametrize("data", **named([data for data in [*EVERY, LOPSIDED, SCALED] if data.mixture() is not None]))
def test_mixture_is_the_density(data: Data) -> None:
    law = data.mixture()
    x = data.take("test", 50).double().flatten(1)
    p = sum(
        w * torch.distributions.MultivariateNormal(m, c).log_prob(x).exp()
        for m, c, w in zip(law.means, law.covariances(), law.weights, strict=True)
    )
    assert torch.allclose(p.log(), data.log_density(x), atol=1e-12)


@pytest.mark.parametrize("data", **named([data for data in PLANAR if data.draw(9, generator("a"))[1] is not None]))
def test_labels_are_equally_likely_components(data: Data) -> None:
    n = 8000
    _, label = data.draw(n, generator("labels"))
    share = label.bincount().double() / n
    expected = data.mixture().weights if data.mixture() else torch.full_like(share, 1 / len(share))
    assert ((share - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()


@pytest.mark.parametrize("data", **named(FINITE))
def test_finite_splits_are_disjoint_and_stratified(data: FiniteData) -> None:
    (train, train_label), (test, test_label) = ((data.take(s, None), data.take_labels(s, None)) for s in SPLITS)
    both = torch.cat([train, test]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)
    share = [label.bincount() / len(label) for label in (train_label, test_label)]
    assert (share[0] - share[1]).abs().max() < 1 / len(test) + 1 / len(train)  # rounding alone
    steps = (both.double() + 1) * (data.levels - 1) / 2
    assert torch.allclose(steps, steps.round(), rtol=0, atol=1e-4)
    assert (both.min(), both.max()) == (-1, 1)
    with pytest.raises(UserError, match="holds"):
        data.take("test", len(test) + 1)


def test_digits_are_the_whole_collection() -> None:
    digits = DATA.build("digits")
    assert (digits.size("train"), digits.size("test"), digits.shape, digits.levels) == (1297, 500, (1, 8, 8), 17)


@pytest.mark.parametrize("data", **named(ENDLESS))
def test_endless_data_asks_how_many(data: Data) -> None:
    with pytest.raises(UserError, match="how many"):
        data.take("train", None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"means": []}, "at least one point"),
        ({"means": [[0, 0], [1]]}, r"means\[1\] has 1 dimensions"),
        ({"means": [[0], [1]], "stds": [1]}, "1 stds for 2 means"),
        ({"means": [[0, 0], [1, 1]], "stds": [1, [1, 2, 3]]}, r"stds\[1\] has 3 numbers"),
        ({"means": [[0], [1]], "stds": [1, 0]}, "greater than 0"),
        ({"means": [[0], [1]], "weights": [1]}, "1 weights for 2 means"),
        ({"means": [[0], [1]], "weights": [0.5, 0.4]}, "sum to 0.9"),
        ({"means": [[0], [1]], "weights": [1.5, -0.5]}, "greater than 0"),
        ({"mean": [[0]]}, "Did you mean 'means'"),
    ],
)
def test_a_wrong_mixture_says_what_is_wrong(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DATA.build({"name": "gaussian-mixture", **wrong})


def test_long_labels_are_short_and_still_differ() -> None:
    labels = {GaussianMixture(means=[[float(i), 0.25]] * 9).label() for i in range(20)}
    assert len(labels) == 20
    assert all(len(label) <= 40 for label in labels)


@given(count=st.integers(1, 5), dim=st.integers(1, 4), std=st.floats(1e-3, 1e3))
def test_any_mixture_builds_from_its_spec(count: int, dim: int, std: float) -> None:
    mixture = GaussianMixture(means=[[float(k)] * dim for k in range(count)], stds=[std] * count)
    assert DATA.build(mixture.spec()) == mixture
    assert mixture.draw(3, generator("a"))[0].shape == (3, dim)


@pytest.mark.parametrize(
    ("shape", "drawn", "words"),
    [
        ((2,), torch.zeros(2, 2), "draw gives Tensor, not a pair"),
        ((3,), (torch.zeros(2, 2), None), r"two draws have shape \(2, 2\), and its shape says \(2, 3\)"),
        ((2,), (torch.full((2, 2), math.nan), None), "not finite"),
        (None, (torch.zeros(2, 2), None), "has no shape"),
    ],
)
def test_draws_of_another_form_are_refused(shape: Any, drawn: Any, words: str) -> None:
    class Wrong(Data):
        name = "wrong"

        @property
        def shape(self) -> tuple[int, ...]:
            return Data.shape.fget(self) if shape is None else shape  # type: ignore[attr-defined, no-any-return]

        def draw(self, n: int, rng: torch.Generator) -> Any:
            return drawn

    with pytest.raises(UserError, match=f"data set 'wrong'.*{words}"):
        check_draws(Wrong())
