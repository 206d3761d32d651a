"""What every data set can do."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..randomness import generator, stream
from ..registry import Component
from .law import MixtureLaw

Split = Literal["train", "test"]


class Data(Component):
    """A distribution on tensors of one shape, float32.

    An endless one implements `draw`; its splits are independent streams of draws. A finite one derives from
    `FiniteData`. `levels` is the number of grey levels of quantised images scaled to [-1, 1], None for real vectors.
    """

    levels: ClassVar[int | None] = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        raise NotImplementedError

    @property
    def classes(self) -> int | None:
        """How many labels there are, 0 … classes − 1; None where samples have none."""
        return None

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """n independent training samples `(n, *shape)` and their labels `(n,)` int64, or None where there are none."""
        raise NotImplementedError

    def size(self, split: Split) -> int | None:
        """How many samples the split holds; None when endless."""
        return None

    def take(self, split: Split, n: int | None, seed: int = 0) -> Tensor:
        """n samples `(n, *shape)` of a split, a function of (split, seed, n) alone, nested in n.

        Raises:
            UserError: the split is endless and n is None, or it holds fewer than n.
        """
        if n is None:
            raise UserError(f"data set '{self.name}' is endless: say how many samples (n) to take")
        return stream(lambda count, rng: self.draw(count, rng)[0], 0, n, "data", split, seed)

    def take_labels(self, split: Split, n: int | None, seed: int = 0) -> Tensor:
        """The labels `(n,)` of the samples that `take` gives."""
        if n is None:
            raise UserError(f"data set '{self.name}' is endless: say how many labels (n) to take")
        return stream(lambda count, rng: labels_of(self, count, rng), 0, n, "data", split, seed)

    def log_density(self, x: Tensor) -> Tensor | None:
        """log p1(x) in nats `(n,)`, float64, where the law is known; else None."""
        return None

    def mixture(self) -> MixtureLaw | None:
        """The law on flattened samples where it is a mixture of Gaussians; else None."""
        return None

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation over samples and dimensions, from 10,000 draws or the whole training split."""
        x = self.take("train", 10_000 if self.size("train") is None else None).double()
        return x.mean().item(), x.flatten(1).var(0).mean().sqrt().item()


def labels_of(data: Data, n: int, rng: torch.Generator) -> Tensor:
    """The labels `(n,)` of n training samples: a draw from the data's own law of labels.

    Raises:
        UserError: the data have none.
    """
    label = data.draw(n, rng)[1]
    if label is None:
        raise UserError(f"data set '{data.name}' has no labels")
    return label


class FiniteData(Data):
    """A collection in memory, with a training and a held-out split."""

    def arrays(self, split: Split) -> tuple[Tensor, Tensor | None]:
        """All samples `(N, *shape)` of a split and their labels `(N,)` or None."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.arrays("train")[0].shape[1:])

    @property
    def classes(self) -> int | None:
        label = self.arrays("train")[1]
        return None if label is None else int(label.max()) + 1

    def size(self, split: Split) -> int | None:
        return len(self.arrays(split)[0])

    def draw(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x, label = self.arrays("train")
        index = torch.randint(len(x), (n,), generator=rng)
        return x[index], None if label is None else label[index]

    def take(self, split: Split, n: int | None, seed: int = 0) -> Tensor:
        x, _ = self.arrays(split)
        return x if n is None else x[self._chosen(split, n, seed)]

    def take_labels(self, split: Split, n: int | None, seed: int = 0) -> Tensor:
        label = self.arrays(split)[1]
        if label is None:
            raise UserError(f"data set '{self.name}' has no labels")
        return label if n is None else label[self._chosen(split, n, seed)]

    def _chosen(self, split: Split, n: int, seed: int) -> Tensor:
        size = len(self.arrays(split)[0])
        if n > size:
            raise UserError(f"data set '{self.name}' holds {size} {split} samples, {n} were asked for")
        return torch.randperm(size, generator=generator("data", split, seed))[:n]
