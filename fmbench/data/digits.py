"""The hand-written digits that scikit-learn carries."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..randomness import generator
from .base import FiniteData, Split

HELD_OUT = 500  # of the 1,797 digits


class Digits(FiniteData):
    """The 1,797 hand-written digits of the UCI test set that scikit-learn carries: 8x8, grey levels 0 … 16.

    Samples are `(1, 8, 8)`, float32, level / 8 − 1 in [−1, 1]; labels are the digits. 500 are held out: the same share
    of every digit (largest remainders), drawn by a generator of our own, the same on every machine; 1,297 train.
    """

    name = "digits"
    levels = 17

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        return _digits()[split]


@lru_cache(maxsize=1)
def _digits() -> dict[Split, tuple[Tensor, Tensor]]:
    """Both splits, in the collection's order. The tensors are shared by the process: do not write into them."""
    from sklearn.datasets import load_digits

    levels, digit = load_digits(return_X_y=True)
    x = torch.as_tensor(levels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    label = torch.as_tensor(digit, dtype=torch.int64)
    held_out = stratified(label, HELD_OUT, generator("digits", "held out"))
    return {"train": (x[~held_out], label[~held_out]), "test": (x[held_out], label[held_out])}


def stratified(label: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """A mask `(N,)` of `count` entries that takes the same share of every label (largest remainders)."""
    classes, sizes = label.unique(return_counts=True)
    share = sizes.double() * count / len(label)
    quota = share.floor().long()
    order = (share - quota).argsort(descending=True, stable=True)
    quota[order[: count - int(quota.sum())]] += 1
    mask = torch.zeros(len(label), dtype=torch.bool)
    for value, n in zip(classes, quota.tolist(), strict=True):
        members = (label == value).nonzero().squeeze(1)
        mask[members[torch.randperm(len(members), generator=rng)[:n]]] = True
    return mask
