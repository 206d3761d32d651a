"""What is kept of a set of images: the moments of its features, and up to `KEPT` of them: beyond, memory does not grow with n."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...data.base import Data, FiniteData
from ...errors import Skip
from ...randomness import generator
from ..transport import Content, content
from .base import QUANTISER, Extractor, Identified, check_images, eight_bits, identified, loaded
from .desk import desk

KEPT = 60_000  # features of a set that are kept, for KID, precision and recall: all but ImageNet's; of Inception 0.5 GB
CHUNK = {"cpu": 32, "cuda": 256}  # images in one pass of the network
READ = 2048  # images read at once


@dataclass(frozen=True)
class Summary:
    """Mean `(D,)` and unbiased covariance `(D, D)`, float64, of the features of `count` images; `kept` `(k, D)` of them."""

    count: int
    mean: Tensor
    cov: Tensor
    kept: Tensor


class Running:
    """Sums of features and of their products about the first batch's mean, float64."""

    def __init__(self, kept: Tensor):
        self.wanted, self.seen, self.filled = kept, 0, 0  # `kept`: which of all samples to keep, ascending

    def add(self, features: Tensor) -> None:
        """The next features `(B, D)`."""
        here = self.wanted[(self.wanted >= self.seen) & (self.wanted < self.seen + len(features))] - self.seen
        if not self.seen:  # all rows at once: never held twice
            self.kept = torch.empty(len(self.wanted), features.shape[1], dtype=features.dtype)
        self.kept[self.filled : self.filled + len(here)] = features[here.to(features.device)].cpu()
        self.filled += len(here)
        features = features.double()
        if not self.seen:
            self.shift = features.mean(0)
            self.sum = torch.zeros_like(self.shift)
            self.products = features.new_zeros(features.shape[1], features.shape[1])
        features = features - self.shift
        self.sum += features.sum(0)
        self.products.addmm_(features.T, features)
        self.seen += len(features)

    def summary(self) -> Summary:
        if self.seen < 2:
            raise Skip(f"a covariance needs two images a side, here are {self.seen}")
        mean = self.sum / self.seen
        cov = (self.products - self.seen * torch.outer(mean, mean)) / (self.seen - 1)
        return Summary(self.seen, (self.shift + mean).cpu(), cov.cpu(), self.kept[: self.filled])


def summarise(x: Tensor, extractor: Extractor) -> Summary:
    """The features of images `(n, 1 or 3, H, W)` in [−1, 1] (or uint8), computed in chunks on the desk's device.

    The last few sets are remembered, so that all metrics of one cell share one pass.
    """
    check_images(tuple(x.shape[1:]))
    return _summarise(content(x), identified(extractor), desk().device)


@lru_cache(maxsize=2)
def _summarise(x: Content, kept: Identified, device: str) -> Summary:
    running = Running(positions(len(x.tensor)))
    for features, _ in stream(x.tensor.split(READ), kept.extractor):
        running.add(features)
    return running.summary()


def stream(images: Iterable[Tensor], extractor: Extractor) -> Iterator[tuple[Tensor, Any]]:
    """The features `(B, D)` of images in chunks, on the desk's device, each with the network that made them.

    Raises:
        ValueError: the extractor gives something else than one row of features an image.
        ArithmeticError: a feature is not finite.
    """
    device = desk().device
    network = loaded(extractor, device)
    for batch in images:
        for chunk in batch.split(CHUNK[device.partition(":")[0]]):
            with torch.inference_mode():
                features = network(eight_bits(chunk.to(device)))
                _check_features(features, len(chunk), extractor)
                yield features, network


def _check_features(features: Any, count: int, extractor: Extractor) -> None:
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != count:
        found = f"the shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise ValueError(
            f"extractor {extractor.label()} gives {found} for {count} images: it must give ({count}, dims)"
        )
    if not features.isfinite().all():
        raise ArithmeticError(f"extractor {extractor.label()} gives features that are not finite")


def positions(count: int, most: int | None = None) -> Tensor:
    """Which of `count` images are kept: all, or a random subset of `most` (`KEPT`) in the set's order, the same everywhere."""
    chosen = torch.randperm(count, generator=generator("kept features", count))
    return chosen[: KEPT if most is None else most].sort().values


def shuffled(kept: Tensor, side: str) -> Tensor:
    """The kept features in a random order, always the same: sets lie sorted by class, and a part of them must be any part."""
    return kept[torch.randperm(len(kept), generator=generator("order of features", side, len(kept)))]


@dataclass(frozen=True)
class Reference:
    """Real images' features, and the sha256 of their bytes."""

    summary: Summary
    sha256: str


def reference(data: Data, extractor: Extractor) -> Reference:
    """All training images of a finite set, remembered under everything that shapes their features.

    Raises:
        Skip: the data are no images, or endless.
    """
    check_images(data.shape)
    count = data.size("train")
    if count is None:
        raise Skip(f"'{data.name}' is endless: image metrics are taken against all of a finite training set")
    sha256 = _bytes_digest(data)
    facts = {
        "data": data.identity(), "split": "train", "images": count, "sha256": sha256, "kept": KEPT,
        "quantiser": QUANTISER, "extractor": extractor.identity(),
    }  # fmt: skip

    def make() -> dict[str, Tensor]:
        running = Running(positions(count))
        for features, _ in stream(_training_images(data), extractor):
            running.add(features)
        summary = running.summary()
        return {"mean": summary.mean, "cov": summary.cov, "kept": summary.kept}

    key = (str(facts), desk().device)
    if key not in _LATEST:
        _LATEST.clear()
        _LATEST[key] = Summary(count, **desk().remember(facts, make))
    return Reference(_LATEST[key], sha256)


_LATEST: dict[tuple[str, str], Summary] = {}  # one reference: a worker does the cells of one data set after another


def _training_images(data: Data) -> Iterator[Tensor]:
    """All of them, a few at a time: what is stored as bytes never stands in memory as floats."""
    if not isinstance(data, FiniteData):
        yield from data.take("train", None).split(READ)
        return
    for stored in data.arrays("train")[0].split(READ):
        yield data.samples(stored)


@lru_cache(maxsize=4)
def _bytes_digest(data: Data) -> str:
    digest = hashlib.sha256(f"{data.size('train')}{data.shape}".encode())
    for images in _training_images(data):
        digest.update(eight_bits(images).contiguous().numpy().data)
    return digest.hexdigest()
