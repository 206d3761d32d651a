"""Bits per dimension: the likelihood of images of whole grey levels, as the literature of image models counts it."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..data.base import Data
from ..errors import Skip
from ..randomness import stream
from ..statistics import Estimate, mean
from .base import Evidence, Exact, take_up_to
from .likelihood import NLL


class BitsPerDim(NLL):
    """−E log2 p1(x) / D + log2(L / 2) over held-out images of L grey levels, D numbers each, dequantised uniformly.

    Level k of 0 … L − 1 becomes x = 2 (k + u) / L − 1, u ~ U(0, 1): a cell of width 2 / L, whence the offset (+ 7 for the
    256 levels of bytes). By Jensen's inequality the value is an upper bound on the code length of the levels themselves.
    The cells lie on [−1, 1] as published values take them; the training images' own levels are 2 / (L − 1) apart, so
    an image is moved by at most half a cell.

    `draws` dequantisations of each image, each with its own probes where the divergence is estimated (see `nll`, which
    computes log p1): an image's value is their mean, and the standard error, over images, holds the images' variation, that of
    the dequantisation and that of the probes. How the divergence was taken, what the solve was held to and how often an image
    was dequantised stand in the row's protocol, the solve's steps and vector-Jacobian products in columns of their own.
    """

    name = "bits_per_dim"
    unit = "bits"
    source = "Theis et al. 2016, section 3.1; Chen et al. 2018, theorem 1; Song et al. 2021, section 4.3"
    version = 2  # the row did not say its probes, tolerance and draws
    draws: PositiveInt = 1

    def measure(self, evidence: Evidence) -> Estimate:
        found, nats = self.likelihood(evidence), math.prod(evidence.data.shape) * math.log(2)
        log_density = found.log_density.reshape(self.draws, -1).mean(0)
        probes = None if found.probe_stderr is None else found.probe_stderr / nats
        value = mean(-log_density / nats + offset(evidence.data))
        return replace(value, probe_stderr=probes, protocol=self.protocol(evidence))

    def protocol(self, evidence: Evidence) -> str:
        """How it was made, in what was asked for: comparable values have it in common, whatever steps their flows needed."""
        count = f"{self.probes} {self.noise} probe{'s' * (self.probes > 1)} an image"
        divergence = "exact divergence" if self.exact(math.prod(evidence.data.shape)) else count
        held = "" if evidence.tolerance is None else f", held to {evidence.tolerance:g} standard deviations of the data"
        solve = f"RK4, {self.steps} steps" if self.steps else f"RK4, the reference solve's steps{held}"
        return f"{divergence}; {solve}; {self.draws} dequantisation{'s' * (self.draws > 1)} an image"

    def points(self, evidence: Evidence) -> Tensor:
        images = take_up_to(evidence.data, "test", self.n or len(evidence.generated), evidence.seed)
        return torch.cat([dequantised(images, levels_of(evidence.data), evidence.seed, k) for k in range(self.draws)])

    def true_value(self, flow: Exact) -> float | None:
        return None

    def has_floor(self, data: Data) -> bool:
        return False


def offset(data: Data) -> float:
    """log2(L / 2): from bits per dimension of the density on [−1, 1] to bits per level."""
    return math.log2(levels_of(data) / 2)


def levels_of(data: Data) -> int:
    """Raises `Skip` where the data have no grey levels."""
    if data.levels is None:
        raise Skip(f"data set '{data.name}' has no grey levels: bits_per_dim is for images, nll for real vectors")
    return data.levels


def dequantised(images: Tensor, levels: int, seed: int, draw: int = 0) -> Tensor:
    """Images `(n, *shape)` in [−1, 1] with each level spread over its cell; image i's noise depends on (seed, draw, i) alone."""
    k = ((images + 1) * (0.5 * (levels - 1))).round()
    u = stream(lambda n, rng: torch.rand(n, *images.shape[1:], generator=rng), 0, len(images), "bits", draw, seed)
    return 2 * (k + u) / levels - 1
