"""Couplings: which x0 of a minibatch is paired with which x1.

All but `independent` pair inside a minibatch. Their plans differ from the plan of the whole laws, the more the smaller
the minibatch; the metrics of `metrics/coupling.py` say by how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from ..errors import UserError, blamed
from ..randomness import generator, only_given_generators
from ..registry import Component
from .assignment import assignment
from .sinkhorn import entropic_plan

if TYPE_CHECKING:
    from ..data.base import Data

INDEX_TYPES = (torch.int64, torch.int32)


class Coupling(Component):
    """A rule that pairs the two sides of a minibatch. Implement `pair`, or `pair_labelled` where labels matter."""

    def size(self, train_batch: int) -> int:
        """Samples in one problem: the coupling's own `batch` where it has one, else the training batch."""
        return getattr(self, "batch", None) or train_batch

    def check(self, source: Data, data: Data) -> None:
        """Raises `UserError` where this coupling cannot pair such laws: asked before anything is computed."""

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Index tensors `(i, j)` of `(B,)` each: x0[i] goes with x1[j] (and with x1's label j).

        Args:
            x0, x1: `(B, *shape)`, one minibatch.
            rng: for couplings that sample; never the global generator.
        """
        raise NotImplementedError

    def pair_labelled(
        self, x0: Tensor, x1: Tensor, label: Tensor | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """As `pair`, given x1's labels `(B,)`, None where the data have none. This is what the stages call."""
        return self.pair(x0, x1, rng)


def indices(
    coupling: Coupling, x0: Tensor, x1: Tensor, label: Tensor | None, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What `pair_labelled` gives, or a `UserError` where that is not two index tensors of `(B,)`."""
    found = coupling.pair_labelled(x0, x1, label, rng)
    if isinstance(found, tuple) and (odd := [i for i in found if getattr(i, "dtype", None) not in INDEX_TYPES]):
        got = f"{type(odd[0]).__name__} of {getattr(odd[0], 'dtype', 'no numbers')}"
        raise UserError(
            f"coupling '{coupling.name}': pair gives {got}, not two tensors of int64 indices (i, j): x0[i] goes with x1[j]"
        )
    given = [tuple(index.shape) for index in found] if isinstance(found, tuple) else type(found).__name__
    if given != [(len(x0),)] * 2:
        raise UserError(
            f"coupling '{coupling.name}': pair gives {given} for a minibatch of {len(x0)}, "
            f"not two index tensors (i, j) of shape ({len(x0)},)"
        )
    return found


def check_pairing(coupling: Coupling, shape: tuple[int, ...], labelled: bool) -> None:
    """Raises `UserError` where a small minibatch is not paired as `pair` says: told before anything runs."""
    n, rng, of = 8, generator("coupling", "check", 0), f"coupling '{coupling.name}'"
    x0, x1 = torch.randn(2, n, *shape, generator=rng)
    label = torch.arange(n) % 2 if labelled else None
    with blamed(of, "has no pair: implement pair(x0, x1, rng), or pair_labelled"), only_given_generators(of):
        found = indices(coupling, x0, x1, label, rng)
    if outside := [int(k) for index in found for k in index if not 0 <= k < n]:
        raise UserError(f"{of}: pair gives the index {outside[0]} for a minibatch of {n}: indices are 0 … {n - 1}")


def taken(x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first axis; x itself where that is x: of images, copying is a share of the whole step."""
    if len(index) == len(x) and torch.equal(index, torch.arange(len(x), device=index.device)):
        return x
    return x.index_select(0, index)  # of images five times as fast as x[index]


class Independent(Coupling):
    """Pairs as they were drawn: x0 and x1 independent."""

    name = "independent"

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.arange(len(x0), device=x0.device)
        return index, index


class MinibatchOT(Coupling):
    """Exact optimal transport inside the minibatch, squared Euclidean cost, without replacement: the assignment itself.

    (Tong 2024, minibatch OT-CFM; Pooladian 2023, BatchOT.) The plan is a permutation: every sample is used once.

    Args:
        engine: `lapjv` (lapx), `pot` (network simplex), or `auto`, the faster one for the size and dimension. Both are
            exact; they may differ where several assignments are optimal.
        batch: samples in one transport problem; a larger problem than the training batch is cut by the caller.
    """

    name = "minibatch-ot"
    engine: Literal["auto", "pot", "lapjv"] = "auto"
    batch: int | None = Field(None, gt=1)

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The optimal pairing, i = 0 … B − 1. Deterministic: draws nothing from rng.

        Raises:
            Diverged: x0 or x1 is not finite. RuntimeError: the engine stopped before the optimum.
        """
        _same_shape(x0, x1)
        j = assignment(x0.detach().flatten(1), x1.detach().flatten(1), self.engine)
        return torch.arange(len(x0), device=x0.device), torch.from_numpy(j).to(x0.device)


class LabelOT(MinibatchOT):
    """Exact optimal transport inside each label of the minibatch: the coupling for models that are given labels.

    C²OT with discrete conditions (Cheng & Schwing 2025, The Curse of Conditions). Transport that ignores
    labels sends to each label the noise nearest to it; a conditional model then trains on a skewed prior p(x0 | label),
    and samples from the whole one. Here each x0 takes the label of the x1 that it was drawn with, hence independent of
    x0, and pairs across labels cost infinitely much: the problem falls apart into one assignment a label, every sample
    is used once, and x0 stays independent of its partner's label at any batch size.

    A label that comes once keeps its pair as drawn, so batches should be large against the number of labels.
    """

    name = "label-ot"

    def check(self, source: Data, data: Data) -> None:
        if data.classes is None:
            raise UserError(
                f"flow.coupling = '{self.name}': it pairs within labels, and data set '{data.name}' has none. Use 'minibatch-ot'."
            )

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        raise TypeError(f"coupling '{self.name}' needs labels: call pair_labelled")

    def pair_labelled(
        self, x0: Tensor, x1: Tensor, label: Tensor | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """i = 0 … B − 1 and label[j] = label: each sample stays within the label it was drawn with."""
        if label is None:
            raise TypeError(f"coupling '{self.name}' needs labels, these data have none")
        j = torch.arange(len(x0), device=x0.device)
        for value in label.unique():
            members = (label == value).nonzero().squeeze(1).to(x0.device)
            j[members] = members[super().pair(x0[members], x1[members], rng)[1]]
        return torch.arange(len(x0), device=x0.device), j


class Sinkhorn(Coupling):
    """Entropic optimal transport inside the minibatch, and pairs drawn from its plan.

    Each x0 is used once; its x1 is drawn from the plan's row, independently of the other rows. So x0's marginal is the
    minibatch's own, x1's only on average: an x1 may come twice or never, between none left out (reg → 0, the exact
    assignment) and a share of 1/e, 37 % (reg → ∞, independent uniform draws). On average every x1 comes once, up to the
    iteration's tolerance.

    Args:
        reg: weight of the entropy, data units². The default 2 σ² with σ = 1 makes the plan the Schrödinger bridge's of
            SB-CFM (Tong 2024).
        batch: samples in one transport problem; a larger problem than the training batch is cut by the caller.
    """

    name = "sinkhorn"
    reg: PositiveFloat = 2.0
    batch: int | None = Field(None, gt=1)

    def pair(self, x0: Tensor, x1: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """i = 0 … B − 1, and j drawn by inverting each row's cumulative sum: one uniform number a row.

        Raises:
            Diverged: x0 or x1 is not finite. RuntimeError: the iteration did not converge.
        """
        _same_shape(x0, x1)
        cumulative = entropic_plan(x0.flatten(1), x1.flatten(1), self.reg).cumsum(1)
        u = torch.rand(len(x0), 1, generator=rng, dtype=torch.float64) * cumulative[:, -1:]
        j = torch.searchsorted(cumulative, u, right=True).squeeze(1).clamp(max=len(x1) - 1)
        return torch.arange(len(x0), device=x0.device), j.to(x0.device)


def _same_shape(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape:
        raise ValueError(f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)} must have the same shape")
