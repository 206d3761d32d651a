"""What a model is: a recipe that builds a network for samples of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from pydantic import Field as Bounded
from pydantic import model_validator
from torch import Tensor, nn

from ..data.base import Data
from ..errors import UserError
from ..flow.couplings import Coupling
from ..flow.paths import Path
from ..flow.velocity import Field
from ..registry import Component

NO_LABEL = -1


def row_of(label: Tensor, rows: int) -> Tensor:
    """Where a label's vector stands in a table of so many rows, whose last one is that of no label."""
    return label.masked_fill(label == NO_LABEL, rows - 1)


class Network(nn.Module):
    """F(t, x), or F(t, x, label) of a conditional model.

    Several independent networks (one a training seed) may live in one module, stacked along a first axis S.

    `forward(t, x)` takes t `()` or `(B,)` and x `(B, *shape)` when S = 1; t `(S, B)` and x `(S, B, *shape)` in training.
    Labels are `(B,)` int64, in training `(S, B)`: a class, or `NO_LABEL` for a sample that is given none; no labels at all say
    that of the whole batch. An unconditional network is never given any.
    Every parameter of a stackable network has the leading axis S, so that one can be cut out and put back. Constant
    buffers are registered with `persistent=False`: what is stored of a flow are its parameters.
    """

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class Model(Component):
    """Base of all models. Implement `network`, or for a model that needs no training `field`."""

    trained: ClassVar[bool] = True
    exact: ClassVar[bool] = False  # its field is the true marginal velocity
    dense: ClassVar[bool] = True  # what it makes has a density
    given: ClassVar[bool] = False  # there are samples alone, and no field: see `samples`

    def stack(self) -> int:
        """How many seeds are worth training as one batched computation on a CPU."""
        return 1

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        """Raises `UserError` where this model cannot serve such a flow: asked before anything is computed."""
        if getattr(self, "conditional", False):
            require_labels(self, data)

    def method(self) -> str | None:
        """What the table calls its flows where path and coupling do not tell: a flow that was made elsewhere."""
        return None

    def lacks_unconditional(self) -> str | None:
        """Why a conditional flow of this model cannot be guided, and how to mend it, as "was never …"; None where it can."""
        if not self.trained or getattr(self, "label_dropout", False):
            return None
        if "label_dropout" not in type(self).model_fields:
            return "was never trained without labels. Derive its class from fmbench.models.base.ConditionalModel"
        return "was never trained without labels. Set flow.model.label_dropout, such as 0.1"

    def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> nn.Module:
        """Freshly initialised networks for samples of `shape`, one for each seed; a function of (self, shape, seed, classes).

        An ordinary `nn.Module` will do where `stack` is 1, called as `alone.PlainNetwork` says.

        Args:
            classes: how many labels a conditional model's data have; None for a network that is given none.
        """
        raise NotImplementedError

    def field(self, path: Path, coupling: Coupling, source: Data, data: Data) -> Field:
        """The velocity itself, for models with `trained = False`."""
        raise NotImplementedError

    def samples(self, data: Data) -> Tensor:
        """The samples themselves `(n, *shape)`, in the data's own range, for models with `given = True`."""
        raise NotImplementedError


class ConditionalModel(Model):
    """Base of the networks that may be given labels.

    The labels that samples are asked for follow the data's own law; those of sample i depend on (seed, i) alone. Metrics of the
    loss on pairs (minimal_loss, balance_residual, pair_memorisation) ask with the pairs' labels. Metrics that ask for the
    velocity where no label is known (nll, bits_per_dim …), or for the exact one (model_error), are skipped for a
    conditional flow.

    Args:
        conditional: the network is given each sample's label.
        label_dropout: the share of training samples whose label is withheld, each by its own chance (Ho & Salimans 2022,
            algorithm 1): what teaches the network the unconditional velocity, which guidance needs.
    """

    unchanged = {"conditional": False, "label_dropout": 0.0}
    conditional: bool = False
    label_dropout: float = Bounded(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _labels_to_drop(self) -> Self:
        if self.label_dropout and not self.conditional:
            raise ValueError(
                f"label_dropout = {self.label_dropout:g} drops labels that are not given: set conditional: true"
            )
        return self


def require_labels(model: Model, data: Data) -> None:
    """Raises `UserError` where the data have no labels for a conditional model."""
    if data.classes is None:
        raise UserError(
            f"model '{model.name}' is conditional, and data set '{data.name}' has no labels: leave conditional out, or use "
            "data with labels, such as 'gaussian-mixture' or 'digits'"
        )
