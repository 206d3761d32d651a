"""Randomness without global state.

Every draw names what it is for; its generator is seeded from that name alone. Sample i of a stream depends on
(seed, i) and on nothing else: not on batch size, on how many samples follow, on device or on the number of workers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .errors import UserError

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


@contextmanager
def lent_generators(device: str, *parts: str | int) -> Iterator[None]:
    """Code that knows global generators alone draws the stream that `parts` name; they are given back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = seed_of(*parts)
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def only_given_generators(who: str) -> Iterator[None]:
    """Raises `UserError` where what runs within draws from a global generator, torch's, NumPy's or Python's.

    Its numbers would change from run to run, and a resumed run would not be the undisturbed one.
    """
    before = _global_states()
    yield
    if drawn := [name for name, state in _global_states().items() if state != before[name]]:
        raise UserError(
            f"{who} draws from the global generator of {' and of '.join(drawn)}: draw from the generator that it is given, as "
            "torch.randn(n, generator=rng), so that a run can be repeated"
        )


def _global_states() -> dict[str, object]:
    return {
        "torch": bytes(torch.random.get_rng_state().numpy()),
        "NumPy": repr(np.random.get_state(legacy=False)),  # noqa: NPY002
        "Python": random.getstate(),
    }
