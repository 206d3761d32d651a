"""Shares of a minibatch: what ranks compute together is what one device computes. Here ranks are threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_flows import flow

from fmbench.randomness import generator
from fmbench.stages import train as training
from fmbench.stages.flow import FlowSpec, Pairs
from fmbench.stages.minibatches import Step
from fmbench.stages.share import WHOLE, Share
from fmbench.stages.train import State, Trained, train

STEPS = 6
ROUNDING = 1e-3
"""Of a tensor's norm. A gradient of B = 64 samples is a sum in another order: some 10 roundings of 2⁻²⁴ through each of a few
layers, 1e-6 (measured: up to 4e-7). Adam divides by the root of the squared gradient, so that elements whose gradient is
rounding alone, as a U-Net's biases before a normalisation, move by up to the learning rate in either direction: 7e-5 of the
norm. Another minibatch, or a sum for a mean, is 0.1 and more."""
CONDITIONAL = {"name": "mlp", "width": 16, "depth": 2, "conditional": True, "label_dropout": 0.3}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip": 0.05},
    "every setting": {"schedule": "cosine", "warmup": 200, "weight_decay": 0.1, "clip": None, "ema_samples": 500},
    "weighted, robust": {"prediction": "epsilon", "weight": "min-snr", "loss": "pseudo-huber"},
    "minibatch-ot": {"coupling": {"name": "minibatch-ot", "batch": 128}},
    "a bridge": {"path": "sb-cfm"},
    "labels withheld": {"model": CONDITIONAL},
    "unet": {"data": "digits", "model": {"name": "unet", "channels": 8}},
    "transformer": {
        "data": "digits",
        "model": {"name": "transformer", "patch": 2, "width": 16, "depth": 1, "heads": 2},
    },
}


@dataclass(frozen=True)
class Thread(Share):
    """A rank that is a thread: the mean goes over a table at which all meet."""

    table: list[Any] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def mean(self, x: Tensor) -> Tensor:
        self.table[self.index] = x.clone()
        self.barrier.wait(60)
        mean = torch.stack(self.table).sum(0) / self.count
        self.barrier.wait(60)
        return mean


def saving(share: Share, spec: FlowSpec, **more: Any) -> tuple[Trained, dict[int, State]]:
    saved: dict[int, State] = {}
    (outcome,) = train([spec], checkpoint=lambda step, states: saved.__setitem__(step, states[0]), share=share, **more)
    assert isinstance(outcome, Trained), outcome
    return outcome, saved


def together(count: int, spec: FlowSpec, **more: Any) -> list[tuple[Trained, dict[int, State]]]:
    table, barrier = [None] * count, threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        ranks = [pool.submit(saving, Thread(i, count, table, barrier), spec, **more) for i in range(count)]
        return [rank.result() for rank in ranks]


def gap(a: State, b: State) -> float:
    """The largest relative distance of two states' parts."""
    assert a.keys() == b.keys()
    return max(((a[name] - b[name]).double().norm() / b[name].double().norm().clamp(min=1e-12)).item() for name in a)


@pytest.fixture(autouse=True)
def _every_step_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """And networks are drawn one after the other: diffusers' are from the global generator, lent to each, which threads share."""
    lock, untrained = threading.Lock(), training.untrained

    def alone(*given: Any) -> Any:
        with lock:
            return untrained(*given)

    monkeypatch.setattr(training, "untrained", alone)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(training, "CHECKPOINT_SHARE", float("inf"))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_ranks_train_what_one_device_trains(case: str, count: int) -> None:
    """The gradient's moments, weights, average and loss of every step: a sum for a mean, or one's own minibatch, shows."""
    spec = flow(**{"samples": STEPS * 64, **CASES[case]})
    _, alone = saving(WHOLE, spec)
    ranks = together(count, spec)
    for _, saved in ranks:
        assert max(gap(saved[step], alone[step]) for step in alone) < ROUNDING
        assert all(torch.equal(a, b) for a, b in zip(saved[STEPS].values(), ranks[0][1][STEPS].values(), strict=True))


def test_pairs_of_a_later_round_are_shared_too() -> None:
    z0, z1 = (torch.randn(256, 2, generator=generator(name)) for name in "ab")
    more: dict[str, Any] = {"pairs": [Pairs(z0, z1)]}
    spec = flow(samples=STEPS * 64)
    _, alone = saving(WHOLE, spec, **more)
    assert gap(together(2, spec, **more)[0][1][STEPS], alone[STEPS]) < ROUNDING


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_another_number_of_ranks_goes_on_from_a_checkpoint(before: int, after: int) -> None:
    spec = flow(samples=STEPS * 64)
    saved = together(before, spec)[0][1]
    resumed = together(after, spec, states=[saved[3]])[0][1]
    assert set(resumed) == {4, 5, 6}
    assert gap(resumed[STEPS], saved[STEPS]) < ROUNDING


def test_a_share_is_a_part() -> None:
    step = Step(torch.arange(12.0).reshape(2, 6), torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.ones(2, 6).long())
    parts = [Share(i, 3).of(step) for i in range(3)]
    for whole, pieces in zip(step, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat([piece for piece in pieces if piece is not None], dim=1), whole)
    assert Share(0, 3).of(Step(*step[:3], None)).label is None
    assert WHOLE.of(step) is step
    assert WHOLE.mean(step.t) is step.t
    assert len({Share(i, 3).names for i in range(3)} | {WHOLE.names}) == 4
