"""Precision and recall by nearest neighbours, as torch-fidelity computes them."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from pydantic import PositiveInt

from ..errors import Skip
from ..statistics import Estimate, agresti_coull
from .features.summary import Summary
from .fid import FeatureMetric, on_kept
from .transport import Content, content

ROWS = 1000  # distances are held for so many images at once


class Manifold(FeatureMetric):
    """The share of one side's images that lie in a ball around one of the other's, up to its `neighbours`-th neighbour.

    On the kept features, all of up to 10,000 images a side, whose number is n. The standard error is that of a share (Agresti &
    Coull 1998, so that 0 and 1 have one too), the balls taken as they are.
    """

    version = 2  # n was once that of all images
    unit = "1"
    higher_is_better = True
    source = "Kynkäänniemi et al. 2019, eq. 1-2; torch-fidelity calculate_precision_recall_part"
    side: ClassVar[int]  # 0: generated images in the real ones' balls
    neighbours: PositiveInt = 3

    def compare(self, x: Summary, real: Summary) -> Estimate:
        if min(len(x.kept), len(real.kept)) <= self.neighbours:
            raise Skip(f"{self.neighbours} neighbours need more images than {len(x.kept)} and {len(real.kept)}")
        value = _both(content(x.kept), content(real.kept), self.neighbours)[self.side]
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
def _both(x: Content, real: Content, neighbours: int) -> tuple[float, float]:
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    precision, recall = calculate_precision_recall_part(x.tensor, real.tensor, neighbours, ROWS)
    return precision, recall
