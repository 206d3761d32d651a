"""A solve on several devices: each makes the samples of a span of its own.

A span is whole batches, and a sample's noise depends on nothing else: so the table does not change with the number of devices.
The worker makes the first span itself, and a process for each further device, which lives as long as the worker, the others.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from ..stages.arithmetic import products
from ..stages.flow import PairsSpec
from ..stages.sample import ReferenceSpec, SampleSpec
from ..store import Store
from .child import Child, NotShared, connected, portable
from .reading import field_of

TICK = 0.2  # seconds between looks up while nothing is heard: an interrupted thread must notice

Solved = SampleSpec | ReferenceSpec | PairsSpec
Stage = Callable[..., Any]  # (spec, field, device, span, *given): a function of a module


class Gone(BaseException):
    """A process that makes samples has died: its worker is replaced."""

    def __repr__(self) -> str:
        return str(self)  # the reason in its rows


def spans(n: int, batch: int, count: int) -> list[range]:
    """0 … n − 1 in up to `count` spans of whole batches, as equal as those allow; none is empty."""
    batches = -(-n // batch)
    edges = [min(n, batch * (batches * i // count)) for i in range(count + 1)]
    return [range(start, stop) for start, stop in pairwise(edges) if start < stop]


class Spread:
    """The devices of one worker, its own first."""

    def __init__(self, store: Store, devices: Sequence[str], plugins: Sequence[str] = ()):
        self.store, self.devices = store, list(devices)
        self.messages: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        self.asked = 0  # solves so far
        self.others: list[Child] = []
        for index, device in enumerate(self.devices[1:]):
            self.others.append(Child(__name__, partial(self._hear, index)))
            self.others[index].send({"store": store, "device": device, "plugins": list(plugins)})

    def solve(self, stage: Stage, spec: Solved, n: int, *given: Any) -> list[Any]:
        """The parts that `stage` makes of n samples, in their order.

        Raises:
            What a stage raised on a device, with its traceback as a note. NotShared: a process does not know the solve's parts.
            Gone: a process died.
        """
        self.asked += 1
        cut = spans(n, spec.batch, len(self.devices))
        for other, span in zip(self.others, cut[1:], strict=False):
            other.send((self.asked, stage, spec, span, given))
        parts = {-1: stage(spec, field_of(self.store, spec.flow, self.devices[0]), self.devices[0], cut[0], *given)}
        while len(parts) < len(cut):
            try:
                index, kind, content = self.messages.get(timeout=TICK)
            except queue.Empty:
                continue
            if kind == "died":
                raise Gone(f"the process on {self.devices[index + 1]}: {content}")
            if kind == "stop":
                raise NotShared(content)
            asked, content = content
            if asked != self.asked:  # of a solve that failed elsewhere
                continue
            if kind == "raised":
                raise content
            parts[index] = content
        return [parts[index] for index in sorted(parts)]

    def _hear(self, index: int, kind: str, content: Any) -> None:
        self.messages.put((index, kind, content))

    def close(self) -> None:
        for other in self.others:
            other.close()


def main() -> None:
    """The process on a further device: span after span until its input ends."""
    greeting, receive, tell = connected()
    store, device = greeting["store"], greeting["device"]
    while True:
        asked, stage, spec, span, given = receive()
        try:
            with products("float32", device):  # unless a stage says otherwise
                tell("part", (asked, stage(spec, field_of(store, spec.flow, device), device, span, *given)))
        except Exception as error:
            tell("raised", (asked, portable(error, f"on {device}")))
        if device.startswith("cuda"):
            torch.cuda.empty_cache()  # a flow may be trained here next
