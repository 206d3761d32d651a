"""The inception score, as torch-fidelity computes it, in memory that does not grow with n."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..data.base import Data
from ..errors import Skip
from ..statistics import Estimate
from .features.base import QUANTISER, check_images
from .features.summary import READ, stream
from .fid import FeatureMetric

SHUFFLE = 2020  # torch-fidelity's: groups are cut from a permutation by numpy's generator of that seed


class InceptionScore(FeatureMetric):
    """exp E KL(p(y|x) ‖ p(y)) on Inception's 1008 classes, the mean over `splits` groups of images.

    The standard error is that of the groups' mean. Says nothing of the data set: a floor is the real images' own score.
    """

    name = "inception_score"
    unit = "1"
    higher_is_better = True
    source = "Salimans et al. 2016, section 4; torch-fidelity isc_features_to_metric"
    features: Literal["inception-v3-compat", "inception-v3-other"] = "inception-v3-compat"
    splits: Annotated[int, Field(ge=2)] = 10

    def _against(self, data: Data, x: Tensor) -> Estimate:
        check_images(tuple(x.shape[1:]))
        if len(x) < 2 * self.splits:
            raise Skip(f"{self.splits} groups of two images take {2 * self.splits}, here are {len(x)}: lower splits")
        group, score, start = groups(len(x), self.splits), Score(self.splits), 0
        for features, network in stream(x.split(READ), self.extractor):
            score.add(network.logits(features), group[start : start + len(features)])
            start += len(features)
        scores = score.value()
        protocol = f"features {self.features} (weights sha256 {self.extractor.weights()}); {QUANTISER}"
        stderr = scores.std().item() / math.sqrt(self.splits)
        return Estimate(scores.mean().item(), stderr, len(x), self.splits - 1, protocol=protocol)


def groups(n: int, splits: int) -> Tensor:
    """The group `(n,)` of each image, as torch-fidelity cuts them."""
    order, group = np.random.RandomState(SHUFFLE).permutation(n), torch.empty(n, dtype=torch.int64)
    for i in range(splits):
        group[torch.as_tensor(order[i * n // splits : (i + 1) * n // splits])] = i
    return group


class Score:
    """Sums over each group of p(y|x) and of Σ_y p log p."""

    def __init__(self, splits: int):
        self.splits = splits
        self.count = torch.zeros(splits, dtype=torch.float64)
        self.negentropy = torch.zeros(splits, dtype=torch.float64)
        self.p: Tensor | float = 0.0

    def add(self, logits: Tensor, group: Tensor) -> None:
        """Logits `(B, 1008)` of the next images, and the group of each `(B,)`."""
        log_p = logits.double().cpu().log_softmax(1)
        p, member = log_p.exp(), torch.nn.functional.one_hot(group, self.splits).double()
        self.count += member.sum(0)
        self.negentropy += member.T @ (p * log_p).sum(1)
        self.p = self.p + member.T @ p

    def value(self) -> Tensor:
        """exp of the mean divergence from the group's own marginal `(splits,)`."""
        marginal = torch.as_tensor(self.p) / self.count[:, None]
        return (self.negentropy / self.count - torch.special.xlogy(marginal, marginal).sum(1)).exp()
