"""One flow on several devices: what each process (rank) computes of a minibatch, and how the ranks agree (data parallelism)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .minibatches import Step


class Parted(RuntimeError):
    """The other ranks do not answer: one of them has failed, and says why, or has died."""


@dataclass(frozen=True)
class Share:
    """Rank `index` of `count`. Every rank draws the whole minibatch, so that its content does not depend on their number.

    The ranks' means are one flat gradient, always of the same layout: that a training that is gone on with adds in the same
    order as an undisturbed one is what makes its bits the same, also of more than two ranks.
    """

    index: int = 0
    count: int = 1

    def of(self, step: Step) -> Step:
        """This rank's part of a minibatch: as many samples for each, for `count` divides the batch."""
        if self.count == 1:
            return step
        size = step.t.shape[1] // self.count
        mine = slice(self.index * size, (self.index + 1) * size)
        t, inputs, targets = (x[:, mine] for x in step[:3])
        return Step(t, inputs, targets, None if step.label is None else step.label[:, mine])

    def mean(self, x: Tensor) -> Tensor:
        """The mean of all ranks' x, the same bits on each.

        Raises:
            Parted: another rank is gone.
        """
        if self.count == 1:
            return x
        from accelerate.utils import reduce

        try:
            averaged: Tensor = reduce(x, "mean")
        except RuntimeError as error:
            raise Parted(str(error)) from error
        return averaged

    @property
    def names(self) -> tuple[int, ...]:
        """What the name of a random stream of the network's own (dropout) is extended by: ranks must not repeat each other."""
        return (self.index,) if self.count > 1 else ()


WHOLE = Share()
