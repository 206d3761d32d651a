"""What every data set can do."""

from __future__ import annotations

from threading import Lock
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError, blamed
from ..randomness import generator, only_given_generators, stream
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
        raise UserError(f"data set '{self.name}' has no shape: implement the property shape, that of one sample")

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

    def draw_on(self, device: str, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """What `draw` gives, on a device."""
        x, label = self.draw(n, rng)
        return x.to(device, non_blocking=True), None if label is None else label.to(device, non_blocking=True)

    def prepare(self) -> None:
        """Makes the data ready before anything is planned or computed: where they are files, finds or downloads them.

        Raises:
            UserError: they are not to be had.
        """

    def provenance(self) -> dict[str, Any]:
        """Where the data came from and what they are, for the manifest; empty where the name and parameters say it all."""
        return {}

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


def shape_of(data: Data) -> tuple[int, ...]:
    """The data's shape, or a `UserError` where a user's own code fails or gives none: a suite is read by it."""
    of = f"data set '{data.name}'"
    with blamed(of, "has no shape: write a property that gives a tuple, as (2,)"):
        shape = data.shape
    if not isinstance(shape, tuple):
        raise UserError(f"{of}: its shape is a {type(shape).__name__}: write a property that gives a tuple, as (2,)")
    return shape


def check_draws(data: Data) -> None:
    """Raises `UserError` where a data set does not hold or draw what `Data` says: told before anything runs."""
    if isinstance(data, FiniteData) and type(data).shape is not FiniteData.shape:
        return  # its shape is known without its files, which may be large: they are not read while planning
    of = f"data set '{data.name}'"
    method = "arrays(split)" if isinstance(data, FiniteData) else "draw(n, rng)"
    with blamed(of, f"cannot be drawn from: implement {method}"), only_given_generators(of):
        if isinstance(data, FiniteData):
            _check_arrays(data, of)
        drawn = data.draw(2, generator("data", "check", 0))
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise UserError(f"{of}: draw gives {type(drawn).__name__}, not a pair of samples and their labels, or None")
    x, label = drawn
    if not isinstance(x, Tensor):
        raise UserError(f"{of}: its draws are {type(x).__name__}: torch.from_numpy makes a tensor of an array")
    if x.shape != (2, *data.shape):
        raise UserError(f"{of}: two draws have shape {tuple(x.shape)}, and its shape says {(2, *data.shape)}")
    if x.dtype != torch.float32:
        raise UserError(f"{of}: its draws are {x.dtype}: samples are torch.float32 (x.float())")
    if not x.isfinite().all():
        raise UserError(f"{of}: its draws are not finite numbers")
    _check_labels(label, 2, data.classes, of)


def _check_arrays(data: FiniteData, of: str) -> None:
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        found = data.arrays(split)
        if not isinstance(found, tuple) or len(found) != 2:
            raise UserError(
                f"{of}: arrays gives {type(found).__name__}, not a pair of samples and their labels, or None"
            )
        x, label = found
        if not isinstance(x, Tensor):
            raise UserError(
                f"{of}: arrays('{split}') gives samples as {type(x).__name__}: torch.from_numpy makes a tensor of an array"
            )
        if not len(x) or x.shape[1:] != data.arrays("train")[0].shape[1:]:
            raise UserError(
                f"{of}: arrays('{split}') gives the shape {tuple(x.shape)}: both splits hold samples of one shape"
            )
        if x.is_floating_point() and not x.isfinite().all():
            raise UserError(f"{of}: its {split} samples are not all finite numbers")
        _check_labels(label, len(x), data.classes, f"{of}, {split} split")


def _check_labels(label: object, n: int, classes: int | None, of: str) -> None:
    if label is None and classes is None:
        return
    if not isinstance(label, Tensor) or label.shape != (n,) or label.dtype != torch.int64:
        got = f"{label.dtype} of shape {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise UserError(f"{of}: labels are {got} for {n} samples: they must be torch.int64 of shape ({n},)")
    if classes is None:
        raise UserError(
            f"{of}: it gives labels, but classes is None: write a property classes that says how many there are"
        )
    if wrong := label[(label < 0) | (label >= classes)].tolist():
        raise UserError(f"{of}: the label {wrong[0]}: labels are 0 … {classes - 1}")


class FiniteData(Data):
    """A collection with a training and a held-out split. Implement `arrays`.

    What is stored may be smaller than the samples: `samples` turns the few that are asked for into them.
    """

    def arrays(self, split: Split) -> tuple[Tensor, Tensor | None]:
        """All samples of a split as they are stored `(N, *shape)`, and their labels `(N,)` int64 or None.

        Asked at every minibatch: keep what was read, as by `functools.lru_cache` on a function of the file.
        """
        raise NotImplementedError

    def samples(self, stored: Tensor) -> Tensor:
        """Stored samples as float32 ones."""
        return stored

    def augmented(self, stored: Tensor, rng: torch.Generator) -> Tensor:
        """Training samples as they are drawn: changed at random, from the CPU's generator, on their own device."""
        return stored

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
        return self.draw_on("cpu", n, rng)

    def draw_on(self, device: str, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """The same numbers on every device; on a GPU the whole training split lives there, where it leaves room."""
        stored, label = self.arrays("train")
        index = torch.randint(len(stored), (n,), generator=rng)
        if device != "cpu":
            stored = resident(stored, device)
        x = self.samples(self.augmented(stored[index.to(stored.device)].to(device), rng))
        return x, None if label is None else label[index].to(device)

    def take(self, split: Split, n: int | None, seed: int = 0) -> Tensor:
        stored, _ = self.arrays(split)
        return self.samples(stored if n is None else stored[self._chosen(split, n, seed)])

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


_RESIDENT: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
_MOVING = Lock()


def resident(stored: Tensor, device: str) -> Tensor:
    """The tensor on a GPU, put there once in a process; where it would take more than half of what is free, as it is."""
    key = (stored.data_ptr(), device)
    with _MOVING:  # minibatches are prepared on several threads
        if key not in _RESIDENT:
            free, _ = torch.cuda.mem_get_info(device)
            if stored.numel() * stored.element_size() > free // 2:
                return stored
            _RESIDENT.clear()  # one data set at a time
            _RESIDENT[key] = (stored, stored.to(device))
        return _RESIDENT[key][1]
