"""Randomness without global state.

Every draw names what it is for; its generator is seeded from that name alone. Sample i of a stream depends on
(seed, i) and on nothing else: not on batch size, on how many samples follow, on device or on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1024  # part of the meaning of every stream: changing it changes every result


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed from names and numbers, the same on every platform."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A fresh CPU generator for the stream that `parts` name."""
    return torch.Generator().manual_seed(seed_of(*parts))


def stream(draw: Callable[[int, torch.Generator], Tensor], start: int, stop: int, *parts: str | int) -> Tensor:
    """Samples `start … stop − 1` of the endless stream that `parts` name.

    Args:
        draw: `(n, generator) -> (n, *shape)`, always called with n = BLOCK.
    """
    first = start // BLOCK
    blocks = range(first, max(first + 1, -(-stop // BLOCK)))  # one at least: an empty slice has a shape, too
    drawn = torch.cat([draw(BLOCK, generator(*parts, block)) for block in blocks])
    offset = start - first * BLOCK
    return drawn[offset : offset + stop - start]
