"""Minibatches: what the network sees in each step, prepared in blocks of steps and, where pairing is slow, ahead of time.

The minibatch of step i is a function of (seed, i) alone, whatever runs beside it and wherever a training starts.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..flow.couplings import Coupling, indices, taken
from ..models.base import NO_LABEL
from ..randomness import generator
from .flow import FlowSpec, Pairs, parametrisation

FLOATS_IN_ADVANCE = 2**20  # a block holds up to this many numbers a seed
STEPS_IN_ADVANCE = 64
LARGE_STEP = 2**15  # numbers in a step, from which on its preparation takes longer than handing it between threads
BLOCKS_AHEAD = 2  # of large steps

Ends = tuple[Tensor, Tensor, Tensor | None]  # x0, x1 and the label of x1


class Step(NamedTuple):
    """What training sees in one step, or in several along a first axis."""

    t: Tensor  # (S, B)
    inputs: Tensor  # (S, B, *shape), of the network
    targets: Tensor  # (S, B, *shape)
    label: Tensor | None  # (S, B) int64, of a conditional flow; NO_LABEL where it is withheld

    def at(self, k: int) -> Step:
        """The k-th of several steps."""
        return Step(self.t[k], self.inputs[k], self.targets[k], None if self.label is None else self.label[k])

    def to(self, device: str) -> Step:
        t, inputs, targets = (x.to(device, non_blocking=True) for x in self[:3])
        return Step(t, inputs, targets, None if self.label is None else self.label.to(device, non_blocking=True))


def minibatches(
    specs: Sequence[FlowSpec],
    start: int,
    stop: int,
    data_std: float,
    pairs: Sequence[Pairs | None] | None = None,
    device: str = "cpu",
) -> Iterator[tuple[int, Step]]:
    """The steps start … stop − 1 of flows that differ in their seed alone.

    Couplings that compute are solved on threads, ahead of the training: the engines release Python's lock.
    """
    first = specs[0]
    d = math.prod(first.data.shape)
    length = steps_in_advance(first.train.batch, d, first.coupling)
    coupled = pairs is None and first.coupling.name != "independent"
    large = first.train.batch * d >= LARGE_STEP
    blocks = range(start // length, -(-stop // length))
    one_each: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)}
    with (
        ThreadPoolExecutor(_cores() if coupled else 1, **one_each) as pairing,
        ThreadPoolExecutor(BLOCKS_AHEAD if large else 1, **one_each) as preparing,
    ):

        def drawn(block: int) -> list[_Block]:
            return [
                _Block.draw(
                    spec, block, length, None if pairs is None else pairs[i], pairing if coupled else None, device
                )
                for i, spec in enumerate(specs)
            ]

        def prepared(parts: Sequence[_Block]) -> Step:
            on_gpu = device.startswith("cuda")
            return _beside([part.prepared(data_std, device if large and on_gpu else "cpu") for part in parts], on_gpu)

        def in_turn() -> Iterator[Step]:
            """Of small steps, only the pairing runs ahead: handing a block over would cost more than making it."""
            ahead = drawn(blocks[0]) if blocks else []
            for block in blocks:
                now, ahead = ahead, drawn(block + 1) if coupled and block + 1 in blocks else []
                yield prepared(now or drawn(block))

        def beside() -> Iterator[Step]:
            """Of images, all work is done while the network computes."""
            ahead: deque[Future[Step]] = deque()
            for block in blocks:
                while len(ahead) <= BLOCKS_AHEAD and (later := block + len(ahead)) in blocks:
                    ahead.append(preparing.submit(lambda block: prepared(drawn(block)), later))
                yield ahead.popleft().result()

        for block, steps in zip(blocks, beside() if large else in_turn(), strict=True):
            here = steps.to(device)
            for step in range(max(start, block * length), min(stop, (block + 1) * length)):
                yield step, here.at(step - block * length)


def _beside(parts: Sequence[Step], pinned: bool) -> Step:
    """The seeds' parts along a second axis, in memory from which a GPU reads while the processor goes on."""

    def side(tensors: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(tensors), dim=1)
        return stacked.pin_memory() if pinned and stacked.device.type == "cpu" else stacked

    t, inputs, targets, label = zip(*parts, strict=True)
    return Step(side(t), side(inputs), side(targets), None if label[0] is None else side(label))


def steps_in_advance(batch: int, d: int, coupling: Coupling) -> int:
    """How many steps one block of minibatches spans; a block holds a whole number of the coupling's own batches.

    Raises:
        UserError: the coupling's batch and the training batch do not fit into each other.
    """
    steps = max(1, min(STEPS_IN_ADVANCE, FLOATS_IN_ADVANCE // (batch * d)))
    ot_batch = coupling.size(batch)
    if ot_batch % batch and batch % ot_batch:
        raise UserError(
            f"coupling '{coupling.label()}': its batch must be a multiple or a divisor of train.batch = {batch}"
        )
    per_problem = max(1, ot_batch // batch)
    return -(-steps // per_problem) * per_problem


@dataclass(frozen=True)
class _Block:
    """`length` minibatches of one seed, drawn; their pairing may still be under way."""

    spec: FlowSpec
    length: int
    t: Tensor  # (n,) float64
    noise: Tensor | None  # (n, *shape), of a bridge
    ends: Sequence[Ends | Future[Ends]]  # pieces
    withheld: Tensor | None  # (n,), of a conditional flow: whose label the network is not given

    @classmethod
    def draw(
        cls, spec: FlowSpec, block: int, length: int, pairs: Pairs | None, pool: Executor | None, device: str
    ) -> _Block:
        rng = generator("train", spec.reflow, spec.seed, block)
        n = length * spec.train.batch
        label = None
        if pairs is None:
            # Where nothing is paired on the processor, data that live on a GPU are drawn there.
            x1, label = spec.data.draw_on(device if pool is None else "cpu", n, rng)
            x0, _ = spec.source.draw(n, rng)
        else:
            index = torch.randint(len(pairs[0]), (n,), generator=rng)
            x0, x1 = pairs[0][index], pairs[1][index]
            label = None if pairs[2] is None else pairs[2][index]
        t = spec.times.draw(n, rng, spec.path).clamp(min=spec.path.start_time)
        noise = None if spec.path.affine else torch.randn(x1.shape, generator=rng, dtype=torch.float64)
        withheld = None
        if spec.classes is not None:  # a stream of its own: the rest is drawn as for an unconditional flow
            rng = generator("label dropout", spec.reflow, spec.seed, block)
            withheld = torch.rand(n, generator=rng) < getattr(spec.model, "label_dropout", 0.0)
        if pool is None:
            return cls(spec, length, t, noise, [(x0, x1, label)], withheld)
        size = spec.coupling.size(spec.train.batch)
        labels = repeat(None, n // size) if label is None else label.split(size)
        problems = zip(x0.split(size), x1.split(size), labels, strict=True)
        names = ("pair", spec.reflow, spec.seed, block)
        ends = [pool.submit(_paired, spec.coupling, *problem, *names, k) for k, problem in enumerate(problems)]
        return cls(spec, length, t, noise, ends, withheld)

    def prepared(self, data_std: float, device: str = "cpu") -> Step:
        """`length` steps of this seed: t `(K, B)`, inputs and targets `(K, B, *shape)`, float32, labels `(K, B)`.

        Of images, a GPU computes what follows the pairing itself.
        """
        ends = [piece.result() if isinstance(piece, Future) else piece for piece in self.ends]
        x0, x1 = torch.cat([end[0] for end in ends]), torch.cat([end[1] for end in ends])
        place = torch.device(device) if x1.device.type == "cpu" else x1.device
        x0, x1, t = (_moved(part, place).double() for part in (x0, x1, self.t))
        noise = None if self.noise is None else _moved(self.noise, place)
        inputs, targets = parametrisation(self.spec, data_std).regression(x0, x1, t, noise)
        steps = (self.length, self.spec.train.batch)
        inputs, targets = (x.float().reshape(*steps, *x1.shape[1:]) for x in (inputs, targets))
        label = None
        if self.withheld is not None:
            given = torch.cat([end[2] for end in ends if end[2] is not None])
            label = given.masked_fill(self.withheld.to(given.device), NO_LABEL).reshape(steps)
        return Step(t.float().reshape(steps), inputs, targets, label)


def _paired(coupling: Coupling, x0: Tensor, x1: Tensor, label: Tensor | None, *names: str | int) -> Ends:
    i, j = indices(coupling, x0, x1, label, generator(*names))
    return taken(x0, i), taken(x1, j), None if label is None else label[j]


def _moved(x: Tensor, device: torch.device) -> Tensor:
    """x on the device, without waiting for what a GPU has still to do: it reads pinned memory when its turn comes."""
    return x if device.type == x.device.type else x.pin_memory().to(device, non_blocking=True)


def _cores() -> int:
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
