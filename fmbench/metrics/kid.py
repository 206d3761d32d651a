"""The kernel Inception distance, as torch-fidelity computes it."""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt

from ..errors import Skip
from ..statistics import Estimate
from .features.summary import Summary, shuffled
from .fid import FeatureMetric, on_kept


class KID(FeatureMetric):
    """Unbiased MMD² with the kernel (xᵀy / D + 1)³, the mean over `subsets` random subsets of `size` images a side.

    Drawn from the kept features, all of up to 60,000 images a side, whose number is n. It may be negative. The standard error
    is over disjoint subsets (torch-fidelity's deviation over overlapping ones is none); infinite where there are fewer than
    two.
    """

    name = "kid"
    version = 4  # n was once that of all images; blocks lay in their own order; 10,000 images a side were kept
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
        stderr = apart.std().item() / math.sqrt(len(apart)) if len(apart) > 1 else math.inf
        value, freedom = over(x.kept, real.kept, self.subsets), max(len(apart) - 1, 1)
        return Estimate(value, stderr, len(x.kept), freedom, protocol=on_kept(x, real))
