"""Parameters packed for a GPU: another order and precision of what the network reads, the same flow."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toy_flows import flow

from fmbench.models.base import Network
from fmbench.randomness import generator
from fmbench.stages import train as training
from fmbench.stages.arithmetic import cast
from fmbench.stages.flow import untrained
from fmbench.stages.packed import PackedParameters
from fmbench.stages.train import Trained, train

UNET = {"name": "unet", "channels": 16, "attention": [4], "conditional": True, "dropout": 0.1}
TRANSFORMER = {"name": "transformer", "patch": 2, "width": 32, "depth": 2, "heads": 2}
AS_ON_A_GPU = {"channels_last": True, "half": True}


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counted = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def network(model: dict[str, Any]) -> Network:
    built = untrained(flow(data="digits", model=model, batch=8), [0]).eval()
    for i, parameter in enumerate(built.parameters()):  # what begins at zero has no gradient behind it
        torch.nn.init.normal_(parameter, 0.0, 0.05, generator=generator("packed", i))
    return built


def gradient(packed: PackedParameters, built: Network) -> tuple[Tensor, Counter[str]]:
    rng = generator("packed")
    t, x = torch.rand(1, 8, generator=rng), torch.randn(1, 8, 1, 8, 8, generator=rng)
    with Operations() as operations:
        packed.refresh()
        with cast("bfloat16", "cpu"):
            predicted = built(t, x)
        packed.backward(predicted.float().square().mean(dim=(1, 2, 3, 4)).sum())
    assert packed.flat.grad is not None
    return packed.canonical(packed.flat.grad), operations.counted


@pytest.mark.parametrize("model", [UNET, TRANSFORMER], ids=lambda model: model["name"])
def test_gradients_are_the_plain_ones_and_cost_fewer_conversions(model: dict[str, Any]) -> None:
    found = []
    for how in ({}, {"channels_last": True}, AS_ON_A_GPU):
        built = network(model)
        packed = PackedParameters(built, 1, **how)
        found.append((packed.canonical(packed.flat), *gradient(packed, built)))
    (flat, wanted, before), *_, (*_, after) = found
    for same, given, _ in found[1:]:
        assert torch.equal(flat, same)
        # Products of another order differ by their rounding to 8 bits, a few of which follow on each other.
        assert (given - wanted).norm() / wanted.norm() < 8 * 2**-8
    products = sum(type(m) in (torch.nn.Linear, torch.nn.Conv2d) for m in network(model).modules())
    assert before["_to_copy"] - after["_to_copy"] >= 2 * products  # a weight, and its gradient


def test_a_packed_tensor_comes_back_as_it_was() -> None:
    packed = PackedParameters(network(UNET), 1, **AS_ON_A_GPU)
    row = torch.randn(packed.flat.shape, generator=generator("row"))
    row[:, sum(p.numel() for _, p in packed.named) :] = 0  # the padding
    assert not torch.equal(packed.laid(row), row)
    assert torch.equal(packed.canonical(packed.laid(row)), row)


def test_a_training_goes_on_from_either_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))
    spec = flow(data="digits", model={**UNET, "conditional": False}, batch=8, samples=96, precision="bfloat16")
    saved: dict[str, dict[int, Any]] = {"plain": {}, "gpu": {}}
    (plain,) = train([spec], checkpoint=saved["plain"].__setitem__)
    with monkeypatch.context() as patched:
        patched.setattr(training, "PackedParameters", lambda n, stack, **_: PackedParameters(n, stack, **AS_ON_A_GPU))
        (gpu,) = train([spec], checkpoint=saved["gpu"].__setitem__)
        (again,) = train([spec], states=saved["gpu"][6])
        (crossed,) = train([spec], states=saved["plain"][6])
    assert isinstance(plain, Trained)
    assert isinstance(gpu, Trained)
    assert isinstance(again, Trained)
    assert isinstance(crossed, Trained)
    assert all(torch.equal(again.weights[name], gpu.weights[name]) for name in gpu.weights)
    for other in (gpu, crossed):
        assert other.losses[-1][1] == pytest.approx(plain.losses[-1][1], rel=0.02)
        assert all(weight.is_contiguous() for weight in other.weights.values())
