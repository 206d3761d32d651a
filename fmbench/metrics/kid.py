"""The kernel Inception distance, as torch-fidelity computes it."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt

from ..errors import Skip
from ..statistics import Estimate, mean
from .features.summary import Summary, shuffled
from .fid import FeatureMetric, on_kept


class KID(FeatureMetric):
    """Unbiased MMD² with the kernel (xᵀy / D + 1)³, the mean over `subsets` random subsets of `size` images a side.

    Drawn from the kept features, all of up to 60,000 images a side, whose number is n. It may be negative. The standard error
    is from disjoint subsets, infinite where there are fewer than two: of their deviation s (torch-fidelity's is over
    overlapping ones) B subsets leave s² / B, and drawing no more than `subsets` random ones (1 − 1/B) s² / subsets.
    """

    name = "kid"
    version = 5  # once: n of all images; blocks in their own order; 10,000 kept; an error without that of drawing
    unit = "1"
    source = "Bińkowski et al. 2018, eq. 4; torch-fidelity kid_features_to_metric"
    subsets: PositiveInt = 100
    size: PositiveInt = 1000

    def compare(self, x: Summary, real: Summary) -> Estimate:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        if min(len(x.kept), len(real.kept)) < self.size:
            raise Skip(
                f"kid draws subsets of {self.size} images, here are {len(x.kept)} and {len(real.kept)}: lower its size"
            )

        def over(a: torch.Tensor, b: torch.Tensor, subsets: int) -> float:
            settings = {"kid_subsets": subsets, "kid_subset_size": self.size, "verbose": False}
            return float(kid_features_to_metric(a, b, **settings)[KEY_METRIC_KID_MEAN])

        sides = (shuffled(x.kept, "generated"), shuffled(real.kept, "reference"))
        blocks = zip(*(side.split(self.size) for side in sides), strict=False)
        apart = torch.tensor([over(a, b, 1) for a, b in blocks if len(a) == len(b) == self.size], dtype=torch.float64)
        disjoint = mean(apart)
        stderr = disjoint.stderr * math.sqrt(1 + (len(apart) - 1) / self.subsets)
        value = over(x.kept, real.kept, self.subsets)
        return Estimate(value, stderr, len(x.kept), disjoint.freedom, protocol=on_kept(x, real))
