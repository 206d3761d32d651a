"""Inception of the true architecture with seeded random weights: nothing computed with them is a FID."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from fmbench.metrics.features.inception import architecture
from fmbench.randomness import generator


def write_weights(path: Path, seed: int = 0) -> Path:
    """A state dict in torch-fidelity's layout, of weights that keep the size of signals from layer to layer."""
    rng, state = generator("random inception", seed), architecture().state_dict()
    for name, tensor in state.items():
        if name.endswith(("conv.weight", "fc.weight")):
            fan_in = math.prod(tensor.shape[1:])
            state[name] = torch.randn(tensor.shape, generator=rng) * math.sqrt(2 / fan_in)
        elif name.endswith(("running_var", "bn.weight")):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=rng)
        elif name.endswith(("running_mean", "bias")):
            state[name] = 0.1 * torch.randn(tensor.shape, generator=rng)
    torch.save(state, path)
    return path
