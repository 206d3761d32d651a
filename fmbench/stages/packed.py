"""The parameters of a network in training as one tensor, and how its products read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.alone import LoneNetwork
from ..models.base import Network
from .share import WHOLE, Share

ALIGNMENT = 64  # floats: whole vector registers and cache lines, unrolled


class PackedParameters:
    """All parameters of S stacked networks as one tensor `(S, P)`, of which the network's parameters are views.

    Clipping, optimiser and averaging then cost one operation each, not one for each parameter. Rows are padded to
    `ALIGNMENT`, for the reason that `seeds_at_once` gives.

    Args:
        channels_last: kernels of convolutions stand in the order in which a GPU reads them, not in that of their axes: else
            every call converts each of them.
        half: what products take, the weights and biases of convolutions and linear layers, the network sees in bfloat16,
            rounded by `refresh` all at once: autocast would round each by itself in every call, and widen each gradient, a third
            of all kernels of a small U-Net's step. Those who read such a parameter otherwise would see it rounded: for
            networks known not to, others ignore it.
    """

    def __init__(self, network: Network, stack: int, *, channels_last: bool = False, half: bool = False):
        self.named = list(network.named_parameters())
        self.stack = stack
        self.channels_last = channels_last and stack == 1
        self.flat = self._row([self._laid(p.detach()) for _, p in self.named])
        rounded = _of_products(network) if half and stack == 1 and isinstance(network, LoneNetwork) else set()
        self.half = self.flat.bfloat16() if rounded else None
        self.rounded = [id(p) in rounded for _, p in self.named]
        for (_, parameter), view in zip(self.named, self._views(self.flat), strict=True):
            parameter.data = view
        if self.half is not None:
            for (_, parameter), view, own in zip(self.named, self._views(self.half), self.rounded, strict=True):
                parameter.data = view if own else parameter.data

    def refresh(self) -> None:
        """Lets the network see what `flat` holds now."""
        if self.half is not None:
            self.half.copy_(self.flat)

    def backward(self, loss: Tensor, share: Share = WHOLE) -> Tensor:
        """The gradient `(S, P)` of a sum of the networks' own losses, the mean over all ranks."""
        gradients = [self._laid(g) for g in torch.autograd.grad(loss, [p for _, p in self.named])]
        self.flat.grad = share.mean(self._row(gradients) if self.half is None else self._widened(gradients))
        return self.flat.grad

    def canonical(self, flat: Tensor) -> Tensor:
        """`(S, P)` as on every device, each parameter in the order of its axes: what checkpoints hold."""
        return self._row(self._views(flat)) if self.channels_last else flat

    def laid(self, canonical: Tensor) -> Tensor:
        """The inverse of `canonical`."""
        pieces = zip(self.named, self._pieces(canonical), strict=True)
        return self._row([self._laid(x.reshape(p.shape)) for (_, p), x in pieces]) if self.channels_last else canonical

    def unpack(self, row: Tensor) -> dict[str, Tensor]:
        """One network's parameters by name from its canonical row `(P,)`, each with the leading axis S = 1 if it has one."""
        shapes = [p.shape if self.stack == 1 else (1, *p.shape[1:]) for _, p in self.named]
        pieces = self._pieces(row[None])
        return {
            name: piece.reshape(shape).clone()
            for (name, _), piece, shape in zip(self.named, pieces, shapes, strict=True)
        }

    def _laid(self, x: Tensor) -> Tensor:
        """A parameter, or its gradient, with its axes in the order in which they are packed."""
        return x.permute(0, 2, 3, 1) if self.channels_last and x.dim() == 4 else x

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's part of a packed tensor, in the parameter's shape."""
        views = []
        for (_, parameter), piece in zip(self.named, self._pieces(flat), strict=True):
            kernel = self.channels_last and parameter.dim() == 4
            shape = parameter.permute(0, 2, 3, 1).shape if kernel else parameter.shape
            views.append(piece.view(shape).permute(0, 3, 1, 2) if kernel else piece.view(shape))
        return views

    def _widened(self, gradients: Sequence[Tensor]) -> Tensor:
        """The row of gradients of two precisions: each precision's at once, where concatenating would take them one by one."""
        row = torch.zeros_like(self.flat)
        pairs = list(zip(self.rounded, row[0].split([*self._sizes(), self._padding()]), gradients, strict=False))
        for own in set(self.rounded):
            torch._foreach_copy_([x for r, x, _ in pairs if r is own], [g.reshape(-1) for r, _, g in pairs if r is own])
        return row

    def _row(self, tensors: Sequence[Tensor]) -> Tensor:
        rows = [tensor.reshape(self.stack, -1) for tensor in tensors]
        return torch.cat([*rows, rows[0].new_zeros(self.stack, self._padding())], dim=1)

    def _pieces(self, flat: Tensor) -> tuple[Tensor, ...]:
        sizes = self._sizes()
        return flat[:, : sum(sizes)].split(sizes, dim=1)

    def _sizes(self) -> list[int]:
        return [p.numel() // self.stack for _, p in self.named]

    def _padding(self) -> int:
        return -sum(self._sizes()) % ALIGNMENT


def _of_products(network: nn.Module) -> set[int]:
    """Which parameters only products take, by `id`."""
    product, other = set[int](), set[int]()
    for module in network.modules():
        found = other if type(module) not in (nn.Linear, nn.Conv2d) else product
        found.update(id(p) for p in module.parameters(recurse=False))
    return product - other
