"""Precision and recall by nearest neighbours, as torch-fidelity defines them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..errors import Skip
from ..statistics import Estimate, added, agresti_coull
from .features.desk import desk
from .features.summary import Summary, shuffled
from .fid import FeatureMetric, on_kept, part
from .transport import Content, content

GROUPS = 10  # of generated images, each left out once
ROWS = 1000  # distances are held for so many images at once


class Manifold(FeatureMetric):
    """The share of one side's images that lie in a ball around one of the other's, up to its `neighbours`-th neighbour.

    On the kept features, all of up to 60,000 images a side, whose number is n. The standard error is that of a share (Agresti &
    Coull 1998, so that 0 and 1 have one too). Real images' balls are part of the definition; those of generated images are
    not, and what others would change joins it: the jackknife over groups of images (conservative, Efron & Stein 1981).
    """

    version = 4  # once: n of all images; 10,000 images a side were kept; generated images' balls had no error
    unit = "1"
    higher_is_better = True
    source = "Kynkäänniemi et al. 2019, eq. 1-2; torch-fidelity calculate_precision_recall_part"
    side: ClassVar[int]  # 0: generated images in the real ones' balls
    neighbours: PositiveInt = 3

    def compare(self, x: Summary, real: Summary) -> Estimate:
        if min(len(x.kept), len(real.kept)) <= self.neighbours:
            raise Skip(f"{self.neighbours} neighbours need more images than {len(x.kept)} and {len(real.kept)}")
        value = _both(content(x.kept), content(real.kept), self.neighbours, desk().device)[self.side]
        m = (len(x.kept), len(real.kept))[self.side]
        share = Estimate(value, agresti_coull(value * m, m), len(x.kept))
        return replace(added(share, (1, self.of_balls(x, real))), protocol=on_kept(x, real))

    def of_balls(self, x: Summary, real: Summary) -> Estimate:
        """0, with the standard error that the generated images' balls leave."""
        return Estimate(0.0, 0.0, len(x.kept))


class Precision(Manifold):
    """The share of generated images that look like real ones: inside the real images' manifold."""

    name = "precision"
    side = 0


class Recall(Manifold):
    """The share of real images that the generated ones cover: inside the generated images' manifold."""

    name = "recall"
    side = 1

    def of_balls(self, x: Summary, real: Summary) -> Estimate:
        """By the jackknife over GROUPS random groups of at most `PART` images: its square falls nearly with 1/n."""
        images = shuffled(part(x), "generated")
        count = min(GROUPS, len(images))
        if len(images) - math.ceil(len(images) / count) <= self.neighbours:
            return Estimate(0.0, math.inf, len(images))
        images, points = images.to(desk().device), part(real).to(desk().device)
        group = torch.arange(len(images)) % count
        without = (images[group.to(images.device) != g] for g in range(count))
        shares = torch.stack([_covered(some, points, self.neighbours).double().mean() for some in without])
        variance = (count - 1) ** 2 / count * shares.var().item()
        return Estimate(0.0, math.sqrt(variance * len(images) / x.count), len(images), count - 1)


@lru_cache(maxsize=2)
def _both(x: Content, real: Content, neighbours: int, device: str) -> tuple[float, float]:
    """Each distance between the sides is computed once, on the device, where torch-fidelity's takes them to the CPU twice."""
    facts = {"radii_of": real.digest.hex(), "neighbours": neighbours}  # the real images' are every cell's
    real_balls = (
        desk().remember(facts, lambda: {"radii": _radii(real.tensor.to(device), neighbours).cpu()})["radii"].to(device)
    )
    points, real_points = x.tensor.to(device), real.tensor.to(device)
    balls = _radii(points, neighbours)
    found, covered = 0, torch.zeros(len(real_points), dtype=torch.bool, device=device)
    for rows, own in zip(points.split(ROWS), balls.split(ROWS), strict=True):
        distances = torch.cdist(rows, real_points)
        found += int((distances <= real_balls).any(1).sum())
        covered |= (distances <= own[:, None]).any(0)
    return found / len(balls), covered.double().mean().item()


def _covered(points: Tensor, real: Tensor, neighbours: int) -> Tensor:
    """Which of the real images `(m,)` lie in a ball around one of `points`."""
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, own in zip(points.split(ROWS), _radii(points, neighbours).split(ROWS), strict=True):
        covered |= (torch.cdist(rows, real) <= own[:, None]).any(0)
    return covered


def _radii(points: Tensor, neighbours: int) -> Tensor:
    """The distance `(n,)` from each image to its `neighbours`-th neighbour: of all distances, its own 0 comes before."""
    return torch.cat(
        [torch.cdist(rows, points).topk(neighbours + 1, largest=False).values[:, -1] for rows in points.split(ROWS)]
    )
