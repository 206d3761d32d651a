"""Pixels as features: no weights, works anywhere, says little about what people see."""

from __future__ import annotations

from torch import Tensor

from .base import Extractor, Network


class Pixels(Extractor):
    """All 3 H W levels, divided by 255."""

    name = "pixels"

    def network(self) -> Network:
        return scaled


def scaled(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
