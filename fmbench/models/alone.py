"""Networks that are trained one at a time, with labels as rows of a table: a user's own, and those of diffusers' blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..randomness import seed_of
from .base import NO_LABEL, Network, row_of


class LoneNetwork(Network):
    """One network; its parameters get their leading axis S = 1 when they are packed (stages.train). Implement `seen`."""

    def __init__(self, classes: int | None):
        super().__init__()
        self.rows = None if classes is None else classes + 1  # the last one is that of no label

    def seen(self, t: Tensor, x: Tensor, row: Tensor | None) -> Tensor:
        """F for t `(B,)` in the precision of x `(B, C, H, W)`; row `(B,)` of the label table, None without one."""
        raise NotImplementedError

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        if x.dim() == 5:
            return self.forward(t[0], x[0], None if label is None else label[0])[None]
        row = None
        if self.rows is not None:
            row = row_of(x.new_full((len(x),), NO_LABEL, dtype=torch.int64) if label is None else label, self.rows)
        if x.is_cuda:
            x = x.contiguous(memory_format=torch.channels_last)  # as tensor cores read it
        return self.seen(t.to(x.dtype).expand(len(x)), x, row)


class PlainNetwork(Network):
    """An ordinary module F(t, x) in the place of a `Network`.

    It is called with t `(B,)` in the precision of x `(B, *shape)`, and where there are labels with them `(B,)`: 0 … classes − 1,
    and classes for a sample that is given none.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], classes: int | None):
        super().__init__()
        self.module, self.axes, self.classes = module, 1 + len(shape), classes

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        if x.dim() > self.axes:  # (S = 1, B, *shape)
            return self.forward(t[0], x[0], None if label is None else label[0])[None]
        row = []
        if self.classes is not None:
            none = x.new_full((len(x),), NO_LABEL, dtype=torch.int64)
            row = [row_of(none if label is None else label, self.classes + 1)]
        answer: Tensor = self.module(t.to(x.dtype).expand(len(x)), x, *row)
        return answer


@contextmanager
def own_generator(name: str, seeds: Sequence[int]) -> Iterator[None]:
    """diffusers draws initial weights from the global generator: lends it ours, and gives it back as it was.

    Raises:
        ValueError: there are several seeds.
    """
    if len(seeds) != 1:
        raise ValueError(f"a {name} is trained alone")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("init", name, seeds[0]))
        yield


def zeroed(layers: Iterable[nn.Module]) -> None:
    """Sets the weights of layers to zero."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
