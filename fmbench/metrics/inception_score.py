"""The inception score, as torch-fidelity computes it, in memory that does not grow with n."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..data.base import Data
from ..errors import Skip
from ..statistics import Estimate
from .features.base import QUANTISER, check_images
from .features.summary import stream
from .fid import FeatureMetric

SPLITS, SHUFFLE = 10, 2020  # torch-fidelity's: ten groups of a permutation by numpy's generator of that seed


class InceptionScore(FeatureMetric):
    """exp E KL(p(y|x) ‖ p(y)) on Inception's 1008 classes, the mean over ten groups of images.

    The standard error is that of the ten groups' mean. Says nothing of the data set: a floor is the real images' own score.
    """

    name = "inception_score"
    unit = "1"
    higher_is_better = True
    source = "Salimans et al. 2016, section 4; torch-fidelity isc_features_to_metric"
    features: Literal["inception-v3-compat", "inception-v3-other"] = "inception-v3-compat"

    def _against(self, data: Data, x: Tensor) -> Estimate:
        check_images(tuple(x.shape[1:]))
        if len(x) < 2 * SPLITS:
            raise Skip(f"{SPLITS} groups of two images at least: {2 * SPLITS}, here are {len(x)}")
        order = np.random.RandomState(SHUFFLE).permutation(len(x))
        group = torch.empty(len(x), dtype=torch.int64)
        for i in range(SPLITS):
            group[torch.as_tensor(order[i * len(x) // SPLITS : (i + 1) * len(x) // SPLITS])] = i
        score, start = Score(), 0
        for features, network in stream(x, self.extractor):
            score.add(network.logits(features), group[start : start + len(features)])
            start += len(features)
        scores = score.value()
        weights = f"features {self.features} (weights sha256 {self.extractor.weights()}); {QUANTISER}"
        return Estimate(scores.mean().item(), scores.std().item() / math.sqrt(SPLITS), len(x), SPLITS - 1, weights)


class Score:
    """Sums over each group of p(y|x) and of Σ_y p log p."""

    def __init__(self) -> None:
        self.count = torch.zeros(SPLITS, dtype=torch.float64)
        self.negentropy = torch.zeros(SPLITS, dtype=torch.float64)
        self.p: Tensor | float = 0.0

    def add(self, logits: Tensor, group: Tensor) -> None:
        """Logits `(B, 1008)` of the next images, and the group of each `(B,)`."""
        log_p = logits.double().cpu().log_softmax(1)
        p, member = log_p.exp(), torch.nn.functional.one_hot(group, SPLITS).double()
        self.count += member.sum(0)
        self.negentropy += member.T @ (p * log_p).sum(1)
        self.p = self.p + member.T @ p

    def value(self) -> Tensor:
        """exp of the mean divergence from the group's own marginal `(SPLITS,)`."""
        marginal = torch.as_tensor(self.p) / self.count[:, None]
        return (self.negentropy / self.count - torch.special.xlogy(marginal, marginal).sum(1)).exp()
