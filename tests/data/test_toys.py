"""The planar shapes: without noise each point lies on its curve, spread along it as told; with noise it is off by that noise."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fmbench.data import DATA
from fmbench.randomness import generator

N = 4000


def drawn(name: str, **parameters: object) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and labels in the curve's usual unit."""
    data = DATA.build({"name": name, "noise": 0, **parameters})
    points, label = data.draw(N, generator("curve"))
    x, y = ((points.double() + (1 if name == "moons" else 0)) / data.scale).unbind(1)
    return x, y, torch.zeros(N) if label is None else label


def of_share(found: Tensor, share: float) -> bool:
    """Whether so many are found, within five binomial errors."""
    return abs(found.double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / N)


def close(x: Tensor, y: Tensor | float) -> bool:
    return torch.allclose(x, torch.as_tensor(y, dtype=torch.float64), rtol=0, atol=1e-4)


def test_moons_are_two_half_circles() -> None:
    x, y, label = drawn("moons")
    upper, lower = label == 0, label == 1
    assert close(torch.hypot(x, y)[upper], 1)
    assert close(torch.hypot(x - 1, y - 0.5)[lower], 1)
    assert y[upper].min() > -1e-5
    assert y[lower].max() < 0.5 + 1e-5
    assert of_share(x[upper] > 0.5, 1 / 3)
    assert of_share(x[lower] > 1.5, 1 / 3)


def test_the_s_is_three_quarters_of_two_circles() -> None:
    x, y, _ = drawn("s-curve")
    assert close(torch.hypot(x, y.abs() - 1), 1)
    assert of_share(y > 0, 0.5)
    assert of_share(y.abs() < 1, 1 / 3)
    assert not ((x * y > 0) & (y.abs() < 1 - 1e-4)).any(), "the fourth quarters"


def test_the_roll_is_archimedes_spiral_between_its_radii() -> None:
    x, y, _ = drawn("swiss-roll")
    radius = torch.hypot(x, y)
    assert close(x, radius * radius.cos())
    assert close(y, radius * radius.sin())
    assert 1.5 * math.pi - 1e-5 < radius.min() < 1.6 * math.pi
    assert 4.4 * math.pi < radius.max() < 4.5 * math.pi + 1e-5
    assert of_share(radius < 3 * math.pi, 0.5)


@pytest.mark.parametrize("turns", [1.5, 2.25])
def test_spirals_are_two_opposite_arms_of_even_density(turns: float) -> None:
    x, y, label = drawn("spirals", turns=turns)
    radius = torch.hypot(x, y)
    angle = 2 * math.pi * turns * radius + math.pi * label
    assert close(x, radius * angle.cos())
    assert close(y, radius * angle.sin())
    assert of_share(radius < 0.5, 0.25)
    assert 0.99 < radius.max() < 1 + 1e-5


@pytest.mark.parametrize("name", ["moons", "s-curve", "swiss-roll", "spirals"])
def test_noise_is_isotropic_in_the_curves_own_unit(name: str) -> None:
    """Of the same draws with and without: the difference is normal noise of scale · noise on each coordinate."""
    with_noise, without = (DATA.build({"name": name, "noise": noise}) for noise in (0.2, 0))
    moved, still = (data.draw(N, generator("noise"))[0].double() for data in (with_noise, without))
    difference = moved - still
    covariance = difference.T.cov() / (0.2 * with_noise.scale) ** 2
    assert torch.allclose(covariance, torch.eye(2, dtype=torch.float64), rtol=0, atol=5 * math.sqrt(2 / N))


def test_eight_gaussians_are_torchcfms() -> None:
    law = DATA.build("eight-gaussians").mixture()
    by_hand = [
        (5, 0),
        (0, 5),
        (-5, 0),
        (0, -5),
        *((a * math.sqrt(12.5), b * math.sqrt(12.5)) for a in (1, -1) for b in (1, -1)),
    ]
    assert torch.cdist(torch.tensor(by_hand, dtype=torch.float64), law.means).amin(1).max() < 1e-12
    assert torch.allclose(law.stds**2, torch.full((8, 2), 0.1, dtype=torch.float64))
    assert torch.allclose(law.weights, torch.full((8,), 1 / 8, dtype=torch.float64))


def test_the_labels_of_a_board_are_its_squares() -> None:
    points, label = DATA.build("checkerboard").draw(N, generator("board"))
    squares = [((points[label == k] + 3) / 1.5).floor().unique(dim=0) for k in range(8)]
    assert all(len(square) == 1 for square in squares)
    assert len(torch.cat(squares).unique(dim=0)) == 8
