"""Extractors: what they are fed, how their networks are loaded, what their keys know."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from fmbench.errors import Skip
from fmbench.metrics.features.base import Extractor, check_images, eight_bits, loaded
from fmbench.metrics.features.own import Own
from fmbench.metrics.features.pixels import scaled


def test_a_level_begins_exactly_where_it_is_said_to() -> None:
    """The single-precision numbers on both sides of ⌊127.5 x + 128⌋'s steps: in single precision sums would round up."""
    levels = torch.arange(1, 256)
    step = ((levels[levels != 128] - 128) / 127.5).float()
    x = torch.cat([torch.nextafter(step, torch.tensor(-2.0)), step, torch.nextafter(step, torch.tensor(2.0))])
    exact = [math.floor(Fraction(value) * 255 / 2 + 128) for value in x.tolist()]
    assert eight_bits(x[:, None, None, None])[:, 0, 0, 0].tolist() == exact


def test_pictures_have_one_channel_or_three() -> None:
    for channels in (1, 3):
        check_images((channels, 8, 8))
    for shape in ((2, 8, 8), (8, 8), (1, 3, 8, 8)):
        with pytest.raises(Skip, match=r"this metric is of images \(1 or 3, H, W\)"):
            check_images(shape)


def test_a_network_is_loaded_to_be_read_alone() -> None:
    class Dropping(Extractor):
        name = "test-dropping"

        def network(self) -> nn.Sequential:
            return nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    network = loaded(Dropping(), "cpu")
    assert isinstance(network, nn.Module)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert loaded(Dropping(), "cpu") is network, "once a process"


def test_pixels_run_from_0_to_1() -> None:
    levels = torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8).expand(1, 3, 2, 2)
    found = scaled(levels)
    assert found.shape == (1, 12)
    assert found[0, :4].tolist() == pytest.approx([0, 0.2, 1, 0.4])


def test_the_key_of_features_of_ones_own_knows_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, kinds, shapes and values."""

    def weights(**parameters: Tensor) -> str | None:
        module = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in parameters.items()})
        monkeypatch.setattr(Own, "network", lambda extractor: module)
        return Own(factory="my:network").weights()

    a = torch.arange(6.0)
    assert weights(a=a) == weights(a=a.clone())
    variants = [weights(a=a), weights(a=a + 1), weights(b=a), weights(a=a.view(2, 3)), weights(a=a.half())]
    assert len(set(variants)) == 5
    monkeypatch.setattr(Own, "network", lambda extractor: torch.sum)
    assert Own(factory="my:network").weights() is None
