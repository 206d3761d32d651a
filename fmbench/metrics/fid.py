"""The Fréchet distance on features: `fid` on torch-fidelity's Inception and 50,000 images alone, else `fd_<features>`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import PositiveInt, field_validator
from torch import Tensor

from ..data.base import Data, FiniteData
from ..errors import Skip
from ..statistics import Estimate
from .base import Evidence, Metric, first_generated, take_up_to
from .features import Extractor, extractor
from .features.base import QUANTISER, check_images, loaded
from .features.desk import desk
from .features.summary import Summary, positions, reference, shuffled, summarise
from .frechet import frechet_distance, influence, moments, transport

FID_IMAGES = 50_000
OF_ANY_NUMBER = "fd_inception-v3-compat, the same distance of any number"
PART = 10_000  # features on which standard errors and extrapolations are computed
SIZES = 5  # subset sizes from which an extrapolation starts, beside the whole


class FeatureMetric(Metric):
    """A number from the features of generated images and, mostly, of ALL training images. Implement `compare`.

    Images are rounded to 8 bits first, half up, and grey ones fill three channels. `n` images are taken (all when None).
    """

    scope = "samples"
    features: str = "inception-v3-compat"
    n: PositiveInt | None = None

    @field_validator("features")
    @classmethod
    def _known(cls, name: str) -> str:
        extractor(name)
        return name

    @property
    def extractor(self) -> Extractor:
        return extractor(self.features)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "extractor": self.extractor.identity()}

    def compare(self, x: Summary, real: Summary) -> Estimate:
        """The value of the generated images' features beside the real ones'."""
        raise NotImplementedError

    def measure(self, evidence: Evidence) -> Estimate:
        return self._against(evidence.data, first_generated(evidence, self.n))

    def has_floor(self, data: Data) -> bool:
        try:
            check_images(data.shape)
        except Skip:
            return False
        return isinstance(data, FiniteData)  # asked while planning, when the files may be elsewhere

    def floor(self, data: Data, n: int, seed: int) -> Estimate | None:
        """n held-out images against all training images."""
        return self._against(data, take_up_to(data, "test", self.n or n, seed)) if self.has_floor(data) else None

    def _against(self, data: Data, x: Tensor) -> Estimate:
        real = reference(data, self.extractor)
        estimate = self.compare(summarise(x, self.extractor), real.summary)
        weights = self.extractor.weights()
        features = f"features {self.features}" + (f" (weights sha256 {weights})" if weights else "")
        against = f"reference {data.label()} train, {real.summary.count} images (sha256 {real.sha256})"
        protocol = "; ".join(filter(None, [features, against, QUANTISER, estimate.protocol]))
        return replace(estimate, protocol=protocol)


def on_kept(x: Summary, real: Summary) -> str:
    """How many of both sides' images a metric of the kept features saw."""
    sides = ((x, "generated"), (real, "reference"))
    return " and ".join(f"{len(side.kept)} of {side.count} {name}" for side, name in sides) + " images"


class FeatureDistance(FeatureMetric):
    """‖m1 − m2‖² + tr (C1 + C2 − 2 (C1 C2)^½) between Gaussians fitted to features, against the training images.

    The standard error is that of the generated images (the training set is part of the definition): the infinitesimal
    jackknife, to first order the bootstrap's. Upward bias of order 1/n: compare at equal n.
    """

    unit = "1"
    source = "Heusel et al. 2017, eq. 6. Error: Efron 1982, infinitesimal jackknife"

    def compare(self, x: Summary, real: Summary) -> Estimate:
        return distance(x, real)


class FDInception(FeatureDistance):
    """What `fid` is, of any number of generated images."""

    name = "fd_inception-v3-compat"
    features: Literal["inception-v3-compat"] = "inception-v3-compat"


class FID(FDInception):
    """The Fréchet Inception distance: torch-fidelity's inception-v3-compat, 50,000 generated against all training images, 8 bits,
    no flips. Of another number it is another number, and not called fid; its floor has what held-out images there are.
    """

    name = "fid"
    version = 2  # once of any number of images

    @field_validator("n")
    @classmethod
    def _as_published(cls, n: int | None) -> int | None:
        if n not in (None, FID_IMAGES):
            raise ValueError(f"fid is of {FID_IMAGES:,} images. Leave n away, or measure {OF_ANY_NUMBER}")
        return n

    def measure(self, evidence: Evidence) -> Estimate:
        loaded(self.extractor, desk().device)  # without its weights neither can be had: said first
        x = evidence.generated[:FID_IMAGES]
        if len(x) < FID_IMAGES:
            raise Skip(
                f"fid is of {FID_IMAGES:,} images, {len(x):,} are generated: raise sample.n, or measure {OF_ANY_NUMBER}"
            )
        return super().measure(replace(evidence, generated=x))


class FDEffNet(FeatureDistance):
    """The Fréchet distance on EfficientNet-Lite0's pooled ImageNet features; its weights install without a network."""

    name = "fd_effnet-lite0"
    features: Literal["effnet-lite0"] = "effnet-lite0"


class FDDINOv2(FeatureDistance):
    """The Fréchet distance on DINOv2 ViT-L/14 features."""

    name = "fd_dinov2-vit-l-14"
    source = "Stein et al. 2023, section 4. Error: Efron 1982, infinitesimal jackknife"
    features: Literal["dinov2-vit-l-14"] = "dinov2-vit-l-14"


class FDOwn(FeatureDistance):
    """The Fréchet distance on features of your own: a registered extractor's name, or module:factory of a --plugin file."""

    name = "fd_own"
    features: str

    def label(self) -> str:
        return f"fd_{self.features}"


class Extrapolated(FeatureDistance):
    """The Fréchet distance at n → ∞: the intercept of a line in 1/n through subsets of the kept features and all n.

    Subsets are nested, from half of at most 10,000 features up; the standard error follows from the weights
    that least squares gives each size. Needs subsets of more images than the features have dimensions.
    """

    version = 2  # subsets were once the first images, of one class where images lie sorted
    source = "Chong & Forsyth 2020, section 3 (FID∞)"

    def compare(self, x: Summary, real: Summary) -> Estimate:
        features = part(x)
        kept, dims = features.shape
        sizes = sorted({round(kept * (0.5 + 0.5 * i / (SIZES - 1))) for i in range(SIZES)} | {x.count})
        if sizes[0] <= dims:
            raise Skip(f"the line in 1/n begins above n = {dims} images, half of those kept are {sizes[0]}")
        whole = distance(x, real)
        features = shuffled(features, "generated")
        parts = [frechet_distance(*moments(features[:size]), real.mean, real.cov) for size in sizes[:-1]]
        weights = intercept_weights(sizes)
        value = sum(w * d for w, d in zip(weights, [*parts, whole.value], strict=True))
        # Nested subsets share samples: the covariance of the means of i.i.d. values over n and m ≥ n of them is var / m.
        spread = sum(
            a * b / max(n, m) for a, n in zip(weights, sizes, strict=True) for b, m in zip(weights, sizes, strict=True)
        )
        stderr = whole.stderr * math.sqrt(x.count * spread)
        protocol = f"subsets of {kept} of {x.count} generated images"
        return Estimate(value, stderr, x.count, whole.freedom, protocol=protocol)


class FIDInfinity(Extrapolated, FDInception):
    """FID∞: fid extrapolated to infinitely many generated images, free of the bias of order 1/n."""

    name = "fid_infinity"


class FDInfinity(Extrapolated, FDOwn):
    """The Fréchet distance on features of your choice, extrapolated to infinitely many generated images."""

    name = "fd_infinity"

    def label(self) -> str:
        return f"fd_infinity_{self.features}"


def part(x: Summary) -> Tensor:
    """`PART` of the kept features, or all: where more would cost time and memory and tell no more."""
    return x.kept if len(x.kept) <= PART else x.kept[positions(len(x.kept), PART)]


def intercept_weights(sizes: Sequence[int]) -> list[float]:
    """What each size's value contributes to the intercept of the least-squares line in 1/n; they sum to 1."""
    design = torch.tensor([[1.0, 1 / size] for size in sizes], dtype=torch.float64)
    weights: list[float] = torch.linalg.pinv(design)[0].tolist()
    return weights


def distance(x: Summary, real: Summary) -> Estimate:
    """The Fréchet distance of two summaries, on the desk's device; with fewer samples than dimensions, in the space they span."""
    device = desk().device
    x_mean, x_cov, real_mean, real_cov = (a.to(device) for a in (x.mean, x.cov, real.mean, real.cov))
    centred, shift = part(x).to(device).double() - x_mean, x_mean - real_mean
    own, other, within = x_cov, real_cov, centred
    if x.count == len(centred) <= len(own):
        basis = torch.linalg.qr(centred.T)[0]
        own, other, within = basis.T @ own @ basis, basis.T @ other @ basis, centred @ basis
    cross, mapped = transport(within, own, other)
    value = (shift.square().sum() + x_cov.trace() + real_cov.trace() - 2 * cross).clamp(min=0)
    spread = influence(centred, shift, mapped).std() / math.sqrt(x.count)
    return Estimate(value.item(), spread.item(), x.count, len(centred) - 1)
