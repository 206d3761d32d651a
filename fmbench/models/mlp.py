"""A multilayer perceptron on flattened samples, stackable over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from ..randomness import generator
from .base import ConditionalModel, Network, row_of

SELU_SLOPE = 1.0507009873554805  # Klambauer 2017 (arXiv 1706.02515), λ
SELU_DEPTH = 1.7580993408473766  # λ α: what selu tends to, below


class _SELU(torch.autograd.Function):
    """λ x above 0, λ α (eˣ − 1) below: on a processor, from operations that it vectorises; the slope as torch takes it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        below = x.clamp(max=0).add_(math.log(SELU_DEPTH)).exp_()
        y = torch.add(below, F.relu(x), alpha=SELU_SLOPE).sub_(SELU_DEPTH)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        slope: Tensor = torch.ops.aten.elu_backward(
            gradients[0], SELU_DEPTH / SELU_SLOPE, SELU_SLOPE, 1.0, True, *ctx.saved_tensors
        )
        return slope


def selu(x: Tensor) -> Tensor:
    """torch's own takes eˣ − 1 number by number: 256 × 64, there and back, cost 170 µs, these 75. On a GPU it is one kernel."""
    y: Tensor = F.selu(x) if x.is_cuda else _SELU.apply(x)
    return y


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "selu": selu,
    "gelu": F.gelu,
    "relu": F.relu,
    "tanh": torch.tanh,
}


class MLP(ConditionalModel):
    """`depth` hidden layers of `width` units on (x, t), t also as `frequencies` harmonics sin πkt, cos πkt.

    A label adds a vector of its own to the first layer: the weights of a one-hot input.
    """

    name = "mlp"
    width: PositiveInt = 128
    depth: PositiveInt = 3
    activation: Literal["silu", "selu", "gelu", "relu", "tanh"] = "silu"
    frequencies: NonNegativeInt = 4

    def stack(self) -> int:
        # Measured on two cores, batch 256: at width 64 five seeds cost about twice one seed; at 256 nothing is gained.
        # Widths that leave a seed's matrices unaligned are trained alone: there the product's rounding depends on the stack.
        return 8 if self.width <= 128 and self.width % 16 == 0 else 1

    def network(self, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None) -> MLPNetwork:
        return MLPNetwork(self, shape, seeds, classes)


class MLPNetwork(Network):
    """Weights `(S, in, out)`, biases `(S, 1, out)`, drawn as U(±1/√in); label vectors `(S, classes + 1, out)` as U(±1)."""

    rates: Tensor
    phases: Tensor

    def __init__(self, spec: MLP, shape: tuple[int, ...], seeds: Sequence[int], classes: int | None = None):
        super().__init__()
        d = math.prod(shape)
        self.act = ACTIVATIONS[spec.activation]
        k = math.pi * torch.arange(1, spec.frequencies + 1)
        # t itself, then sin πkt and cos πkt = sin(πkt + π/2): few small operations, for they are paid at every call.
        self.register_buffer("rates", torch.cat([torch.ones(1), k, k]), persistent=False)
        self.register_buffer("phases", torch.cat([torch.zeros(1), 0 * k, 0 * k + math.pi / 2]), persistent=False)
        sizes = [d + 1 + 2 * spec.frequencies, *[spec.width] * spec.depth, d]
        rngs = [generator("init", "mlp", seed) for seed in seeds]

        def drawn(*size: int, fan_in: int) -> nn.Parameter:
            bound = fan_in**-0.5
            return nn.Parameter(torch.stack([(2 * torch.rand(*size, generator=rng) - 1) * bound for rng in rngs]))

        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            self.weights.append(drawn(fan_in, fan_out, fan_in=fan_in))
            self.biases.append(drawn(1, fan_out, fan_in=fan_in))
        # Drawn last, and one row more than there are labels: that of no label.
        self.labels: nn.Parameter | None = None if classes is None else drawn(classes + 1, spec.width, fan_in=1)

    def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        stacked = t.dim() == 2
        features = self._time_features(t)
        weights, biases = list(self.weights), list(self.biases)
        given = None if self.labels is None else self._label_vectors(self.labels, label)
        h = x.flatten(2 if stacked else 1)
        if stacked:
            first = biases[0] if given is None else biases[0] + given
            h = torch.baddbmm(first, torch.cat([h, features], -1), weights[0])
            for w, b in zip(weights[1:], biases[1:], strict=True):
                h = torch.baddbmm(b, self.act(h), w)
            return h.reshape(x.shape)
        # One network: time and label enter as a bias, time once a call when t is a scalar.
        d = h.shape[1]
        bias = torch.addmm(biases[0][0], features.reshape(-1, features.shape[-1]), weights[0][0, d:])
        if given is not None:
            bias = bias + given[0]
        h = torch.addmm(bias, h, weights[0][0, :d])
        for w, b in zip(weights[1:], biases[1:], strict=True):
            h = torch.addmm(b[0], self.act(h), w[0])
        return h.reshape(x.shape)

    def _label_vectors(self, table: Tensor, label: Tensor | None) -> Tensor:
        """Each sample's vector `(S, B, width)`; `(S, 1, width)`, that of no label, where none are given."""
        if label is None:
            return table[:, -1:]
        stack, rows, width = table.shape
        first = rows * torch.arange(stack, device=label.device)[:, None]  # of each seed, in the flattened table
        return F.embedding(row_of(label, rows).reshape(stack, -1) + first, table.reshape(-1, width))

    def _time_features(self, t: Tensor) -> Tensor:
        """`(…, 1 + 2 frequencies)`, in the network's precision."""
        features = self.rates * (t[..., None].to(self.rates.dtype) if t.dim() else t) + self.phases
        features[..., 1:].sin_()
        return features
