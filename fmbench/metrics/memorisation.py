"""Whether a reflow round or a student learned its pairs or memorised them."""

from __future__ import annotations

from itertools import repeat
from typing import ClassVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..errors import Skip
from ..flow.times import Steps
from ..randomness import generator
from ..statistics import Estimate, added, mean
from .base import Evidence, Metric
from .transport import squared

CHUNK = 4096


class PairMemorisation(Metric):
    """E‖u_t − v(t, x_t)‖² on fresh pairs of the teacher's flow, less the same on the pairs trained on: 0 without memorisation.

    Fresh pairs are the teacher's reference solve from the evaluation's noise, which no training saw; both sides have the same
    stratified times. `n` pairs a side, at most those there are. Where some training pairs are inverted data
    (`pairs.inverted`), the difference also holds how far the teacher's law is from the data's. A conditional flow is asked with
    the labels that the pairs were drawn with, a student of k steps at its k times alone.
    """

    name = "pair_memorisation"
    unit = "data units²"
    scope = "flow"
    source = "generalisation gap of the flow-matching loss on rectified pairs (Liu et al. 2022, algorithm 1)"
    asks_teacher: ClassVar = True
    n: PositiveInt = 2000

    def measure(self, evidence: Evidence) -> Estimate:
        if evidence.teacher is None or evidence.velocity is None:
            raise Skip("the first round has no fixed pairs to memorise: reflow rounds and students alone have")
        z0, z1 = evidence.teacher.z0[: self.n], evidence.teacher.z1[: self.n]
        asked = None if evidence.conditional is None or evidence.label is None else evidence.label[: self.n]
        fresh, trained = errors(evidence, z0, z1, asked), errors(evidence, *evidence.pairs(len(z0)))
        return added(mean(fresh), (-1, mean(trained)))


def errors(evidence: Evidence, x0: Tensor, x1: Tensor, label: Tensor | None = None) -> Tensor:
    """‖u_t − v(t, x_t)‖² of each pair `(n,)`, float64, at times stratified over the flow's span; of a student, over its own."""
    n, rng, k = len(x0), generator("stratified times", evidence.seed), evidence.distilled
    share = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=rng, dtype=torch.float64)) / n
    t = (Steps(k=k).quantile(share) if k else share) * evidence.end_time
    found = []
    labels = repeat(None) if label is None else label.split(CHUNK)
    for a, b, s, given in zip(x0.split(CHUNK), x1.split(CHUNK), t.split(CHUNK), labels, strict=False):
        x, u = evidence.path.point(a.double(), b.double(), s)
        with torch.no_grad():
            v = evidence.asked(s, x.float(), given)
        found.append(squared(u, v))
    return torch.cat(found)
