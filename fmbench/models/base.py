"""What a model is: a recipe that builds a network for samples of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from ..data.base import Data
from ..flow.couplings import Coupling
from ..flow.paths import Path
from ..flow.velocity import Field
from ..registry import Component


class Network(nn.Module):
    """F(t, x). Several independent networks (one a training seed) may live in one module, stacked along a first axis S.

    `forward(t, x)` takes t `()` or `(B,)` and x `(B, *shape)` when S = 1; t `(S, B)` and x `(S, B, *shape)` in training.
    Every parameter of a stackable network has the leading axis S, so that one can be cut out and put back. Constant
    buffers are registered with `persistent=False`: what is stored of a flow are its parameters.
    """

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class Model(Component):
    """Base of all models. Implement `network`, or for a model that needs no training `field`."""

    trained: ClassVar[bool] = True
    exact: ClassVar[bool] = False  # its field is the true marginal velocity
    given: ClassVar[bool] = False  # there are samples alone, and no field: see `samples`

    def stack(self) -> int:
        """How many seeds are worth training as one batched computation on a CPU."""
        return 1

    def check(self, path: Path, coupling: Coupling, source: Data, data: Data) -> None:
        """Raises `UserError` where this model cannot serve such a flow: asked before anything is computed."""

    def method(self) -> str | None:
        """What the table calls its flows where path and coupling do not tell: a flow that was made elsewhere."""
        return None

    def network(self, shape: tuple[int, ...], seeds: Sequence[int]) -> Network:
        """Freshly initialised networks for samples of `shape`, one for each seed; a function of (self, shape, seed)."""
        raise NotImplementedError

    def field(self, path: Path, coupling: Coupling, source: Data, data: Data) -> Field:
        """The velocity itself, for models with `trained = False`."""
        raise NotImplementedError

    def samples(self, data: Data) -> Tensor:
        """The samples themselves `(n, *shape)`, in the data's own range, for models with `given = True`."""
        raise NotImplementedError
