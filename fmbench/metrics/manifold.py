"""Precision and recall by nearest neighbours, as torch-fidelity defines them."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..errors import Skip
from ..statistics import Estimate, agresti_coull
from .features.desk import desk
from .features.summary import Summary
from .fid import FeatureMetric, on_kept
from .transport import Content, content

ROWS = 1000  # distances are held for so many images at once


class Manifold(FeatureMetric):
    """The share of one side's images that lie in a ball around one of the other's, up to its `neighbours`-th neighbour.

    On the kept features, all of up to 60,000 images a side, whose number is n. The standard error is that of a share (Agresti &
    Coull 1998, so that 0 and 1 have one too), the balls taken as they are.
    """

    version = 3  # n was once that of all images; 10,000 images a side were kept
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
        return Estimate(value, agresti_coull(value * m, m), len(x.kept), protocol=on_kept(x, real))


class Precision(Manifold):
    """The share of generated images that look like real ones: inside the real images' manifold."""

    name = "precision"
    side = 0


class Recall(Manifold):
    """The share of real images that the generated ones cover: inside the generated images' manifold."""

    name = "recall"
    side = 1


@lru_cache(maxsize=2)
def _both(x: Content, real: Content, neighbours: int, device: str) -> tuple[float, float]:
    """Each distance between the sides is computed once, on the device, where torch-fidelity's takes them to the CPU twice."""
    facts = {"radii_of": real.digest.hex(), "neighbours": neighbours}  # the real images' are every cell's
    real_balls = desk().remember(facts, lambda: {"radii": _radii(real, neighbours, device).cpu()})["radii"].to(device)
    balls, real_points = _radii(x, neighbours, device), real.tensor.to(device)
    found, covered = 0, torch.zeros(len(real_points), dtype=torch.bool, device=device)
    for rows, own in zip(x.tensor.to(device).split(ROWS), balls.split(ROWS), strict=True):
        distances = torch.cdist(rows, real_points)
        found += int((distances <= real_balls).any(1).sum())
        covered |= (distances <= own[:, None]).any(0)
    return found / len(balls), covered.double().mean().item()


def _radii(side: Content, neighbours: int, device: str) -> Tensor:
    """The distance `(n,)` from each image to its `neighbours`-th neighbour: of all distances, its own 0 comes before."""
    points = side.tensor.to(device)
    return torch.cat(
        [torch.cdist(rows, points).topk(neighbours + 1, largest=False).values[:, -1] for rows in points.split(ROWS)]
    )
