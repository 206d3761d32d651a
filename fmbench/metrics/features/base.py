"""What an extractor is, and what it is fed: three channels of 8 bits, rounded half up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import Skip
from ...registry import Component

Network = Callable[[Tensor], Tensor]
QUANTISER = "uint8 round-half-up"  # ⌊127.5 x + 128⌋, as the reference's bytes came to be


class Extractor(Component):
    """Features of images. A plug-in sets `name`, implements `network` and, where it has weights, `weights`."""

    def network(self) -> Network:
        """A function of uint8 images `(B, 3, H, W)` that gives features `(B, dims)`; modules are moved to the device.

        Raises:
            Unavailable: the weights are not at hand; says how to get them.
        """
        raise NotImplementedError

    def weights(self) -> str | None:
        """sha256 of the weights that `network` has, or will have; None where there are none (yet)."""
        return None

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "weights": self.weights()}


def eight_bits(x: Tensor) -> Tensor:
    """Images `(B, 1 or 3, H, W)` in [−1, 1] as uint8 `(B, 3, H, W)`: ⌊127.5 x + 128⌋, clamped; grey ones three times.

    Raises:
        ArithmeticError: a value is not finite.
    """
    if x.dtype != torch.uint8:
        if not x.isfinite().all():
            raise ArithmeticError("images with values that are not finite")
        x = x.double().mul(127.5).add(128).floor().clamp(0, 255).to(torch.uint8)
    return x.expand(-1, 3, -1, -1)


def check_images(shape: tuple[int, ...]) -> None:
    """Raises `Skip` unless samples of this shape are pictures."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise Skip(f"this metric is of images (1 or 3, H, W) in [−1, 1], samples here have the shape {shape}")


@dataclass(frozen=True)
class Identified:
    """An extractor as a cache argument: equal when its identity, weights included, is. Made by `identified`."""

    identity: str
    extractor: Extractor = field(compare=False)


def identified(extractor: Extractor) -> Identified:
    return Identified(str(extractor.identity()), extractor)


def loaded(extractor: Extractor, device: str) -> Network:
    """The extractor's network on a device, loaded once a process."""
    return _loaded(identified(extractor), device)


@lru_cache(maxsize=2)
def _loaded(kept: Identified, device: str) -> Network:
    network = kept.extractor.network()
    if isinstance(network, nn.Module):
        network = network.to(device).to(memory_format=torch.channels_last)
        network.eval().requires_grad_(False)
    return network
