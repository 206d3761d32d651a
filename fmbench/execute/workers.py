"""Where jobs run: in a thread of this process, or in worker processes that die with it (see `child`)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UserError
from ..store import Store
from .child import Child, Tell, connected
from .jobs import Bench, Job
from .ranks import Ranks, neighbours
from .spread import Spread

GRACE = 10.0  # seconds that an interrupted thread may stay inside a library


@dataclass(frozen=True)
class Message:
    """What a worker tells: progress, the outcomes of its job, a mistake that ends the run, or (kind = died) its death."""

    worker: Worker
    kind: str  # progress | done | stop | died
    content: Any = None


class Worker:
    """Does one job at a time; everything it has to say comes through the queue."""

    def __init__(self, messages: queue.Queue[Message], device: str):
        self.messages, self.device = messages, device
        self.job: Job | None = None
        self.proven = False  # it has finished a job

    def submit(self, job: Job) -> None:
        self.job = job
        self._start(job)

    def _start(self, job: Job) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Ends the worker; an unfinished job is given up (its checkpoints stay)."""


class ThreadWorker(Worker):
    """Jobs in this process."""

    def __init__(
        self, messages: queue.Queue[Message], device: str, store: Store, plugins: Sequence[str], devices_per_flow: int
    ):
        super().__init__(messages, device)
        self.bench = _bench(store, device, devices_per_flow, plugins, self._tell)

    def _start(self, job: Job) -> None:
        self.thread = threading.Thread(target=self._work, args=(job,), daemon=True)
        self.thread.start()

    def _work(self, job: Job) -> None:
        try:
            with one_thread(self.device):
                self._tell("done", self.bench.run(job))
        except UserError as error:
            self._tell("stop", str(error))
        except BaseException as error:
            self._tell("died", repr(error))

    def _tell(self, kind: str, content: Any) -> None:
        self.messages.put(Message(self, kind, content))

    def close(self) -> None:
        if self.job is not None and self.thread.is_alive():
            # Raised at its next Python instruction: the thread must neither train on, nor keep its locks, nor be inside
            # torch when the interpreter ends.
            interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
            interrupt(ctypes.c_ulong(self.thread.ident or 0), ctypes.py_object(SystemExit))
            self.thread.join(GRACE)
        if self.bench.spread is not None:
            self.bench.spread.close()


class ProcessWorker(Worker):
    """Jobs in a process of their own."""

    def __init__(
        self, messages: queue.Queue[Message], device: str, store: Store, plugins: Sequence[str], devices_per_flow: int
    ):
        super().__init__(messages, device)
        self.child = Child(__name__, lambda kind, content: messages.put(Message(self, kind, content)))
        about = {"store": store, "device": device, "devices_per_flow": devices_per_flow}
        self.child.send({**about, "plugins": list(plugins)})

    def _start(self, job: Job) -> None:
        self.child.send(job)

    def close(self) -> None:
        self.child.close()


def _bench(store: Store, device: str, devices_per_flow: int, plugins: Sequence[str], tell: Tell) -> Bench:
    """Where a worker works. Made on a thread that lives as long as it does: the processes of `Spread` end with that thread."""
    devices = neighbours(device, devices_per_flow)
    several = len(devices) > 1
    return Bench(
        store,
        device,
        lambda what, amount: tell("progress", (what, amount)),
        ranks=Ranks(devices, plugins) if several else None,
        spread=Spread(store, devices, plugins) if several else None,
    )


@contextlib.contextmanager
def one_thread(device: str) -> Any:
    """On a CPU, small models are fastest on one thread, and one thread computes the same bits everywhere."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    """The worker process: job after job until its input ends."""
    greeting, receive, tell = connected()
    device = greeting["device"]
    bench = _bench(greeting["store"], device, greeting["devices_per_flow"], greeting["plugins"], tell)
    with one_thread(device):
        while True:
            try:
                tell("done", bench.run(receive()))
            except UserError as error:
                tell("stop", str(error))
            except BaseException as error:  # a component that exits: this worker is not trusted with another job
                tell("died", repr(error))
                os._exit(1)
