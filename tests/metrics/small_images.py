"""Forty training and forty held-out images of 8 × 8, and three features of them: what image metrics are tested on."""

from __future__ import annotations

from functools import lru_cache

import torch
from gaussian_flow import GaussianFlow
from torch import Tensor

from fmbench.data.base import FiniteData, Split
from fmbench.metrics import Evidence
from fmbench.metrics.features import EXTRACTORS
from fmbench.metrics.features.base import Extractor, Network, eight_bits
from fmbench.randomness import generator

HELD = 40


@lru_cache(maxsize=8)
def images(n: int, *name: str | int, channels: int = 3) -> Tensor:
    """n images `(n, channels, 8, 8)` in [−1, 1], a brightness and a little noise."""
    rng = generator("small images", *name)
    level = torch.rand(n, channels, 1, 1, generator=rng) * 1.4 - 0.7
    return (level + 0.15 * torch.randn(n, channels, 8, 8, generator=rng)).clamp(-1, 1)


class SmallImages(FiniteData):
    """Levels of 8 bits, as real images have them."""

    name = "small-images"
    levels = 256

    def arrays(self, split: Split) -> tuple[Tensor, None]:
        return eight_bits(images(HELD, split)).float() / 127.5 - 1, None


class ChannelMeans(Extractor):
    """The mean level of each channel, in [0, 1]."""

    name = "channel-means"

    def network(self) -> Network:
        return lambda x: x.float().mean((2, 3)) / 255


EXTRACTORS.register(ChannelMeans)


def evidence(generated: Tensor) -> Evidence:
    return GaussianFlow((0.0,), (1.0,)).evidence(4, data=SmallImages(), generated=generated)
