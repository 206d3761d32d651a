"""Whether the samples of a conditional flow are what they were asked to be."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..data.base import Data
from ..errors import Skip
from ..statistics import Estimate, agresti_coull
from .base import Evidence, Metric


class LabelAccuracy(Metric):
    """The share of samples to which a classifier of real data gives the label that they were asked for.

    The classifier is the vote of the `k` nearest of at most `references` training samples, Euclidean. Its floor, real held-out
    samples with their own labels, is what a perfect flow reaches; guidance may exceed it, by making samples typical rather
    than by making them true. The standard error is Agresti & Coull's (1998), which is not 0 where every sample is right.
    """

    name = "label_accuracy"
    version = 2  # the row did not say how many training samples vote
    unit = "1"
    higher_is_better = True
    scope = "samples"
    source = "GAN-test of Shmelkov et al. 2018, with a nearest-neighbour classifier"
    k: PositiveInt = 5
    references: PositiveInt = 10_000
    n: PositiveInt | None = None

    def measure(self, evidence: Evidence) -> Estimate:
        if evidence.label is None:
            raise Skip("the flow is unconditional: its samples were not asked to be of any class")
        x, label = evidence.generated[: self.n], evidence.label[: self.n]
        return self.agreement(evidence.data, x, label, evidence.seed)

    def agreement(self, data: Data, x: Tensor, label: Tensor, seed: int) -> Estimate:
        """How many of the samples x `(n, *shape)` are classified as label `(n,)`."""
        from sklearn.neighbors import KNeighborsClassifier

        count = min(self.references, data.size("train") or self.references)
        known, classes = data.take("train", count, seed), data.take_labels("train", count, seed)
        voters = KNeighborsClassifier(min(self.k, count)).fit(known.flatten(1).numpy(), classes.numpy())
        right = int((torch.as_tensor(voters.predict(x.flatten(1).cpu().numpy())) == label.cpu()).sum())
        protocol = f"vote of the {min(self.k, count)} nearest of {count} training samples"
        return Estimate(right / len(x), agresti_coull(right, len(x)), len(x), protocol=protocol)

    def has_floor(self, data: Data) -> bool:
        return data.classes is not None and data.classes > 1

    def floor(self, data: Data, n: int, seed: int) -> Estimate | None:
        if not self.has_floor(data):
            return None
        n = min(self.n or n, data.size("test") or n)
        return self.agreement(data, data.take("test", n, seed), data.take_labels("test", n, seed), seed)
