"""Where jobs run: in a thread of this process, or in worker processes that die with it.

A worker process runs `main` of this module. It reads jobs from its standard input and writes messages to what was
its standard output; nothing of the user's main module is imported, so `fmbench.run` needs no main guard. When the
parent dies, however it dies, the worker is ended too: by `lifeline`, or because its input ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import UserError
from ..store import Store
from .jobs import Bench, Job

START = (
    "from fmbench.lifeline import hold_on_to; hold_on_to({parent}); from fmbench.execute.workers import main; main()"
)
GRACE = 10.0  # seconds that an interrupted thread may stay inside a library
OWN_COMPONENTS = "Components of your own belong in a file given with --plugin (plugins=…), or use one worker."


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

    def __init__(self, messages: queue.Queue[Message], device: str, store: Store):
        super().__init__(messages, device)
        self.bench = Bench(store, device, lambda what, amount: self._tell("progress", (what, amount)))

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


class ProcessWorker(Worker):
    """Jobs in a process of their own."""

    def __init__(self, messages: queue.Queue[Message], device: str, store: Store, plugins: Sequence[str]):
        super().__init__(messages, device)
        # Read when the numerical libraries load: one thread a worker, which also makes results independent of the cores.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(parent=os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        self._send({"store": store, "device": device, "plugins": list(plugins)})
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _start(self, job: Job) -> None:
        self._send(job)

    def _send(self, item: Any) -> None:
        assert self.process.stdin is not None
        try:
            content = pickle.dumps(item)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(f"a job cannot be sent to a worker process ({error}). {OWN_COMPONENTS}") from None
        with contextlib.suppress(BrokenPipeError):  # its death is told by _listen
            self.process.stdin.write(content)
            self.process.stdin.flush()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        while True:
            try:
                kind, content = pickle.load(self.process.stdout)
            except (EOFError, pickle.UnpicklingError, OSError, ValueError):
                code = self.process.wait()
                self.messages.put(Message(self, "died", f"the worker process ended (exit code {code}); out of memory?"))
                return
            self.messages.put(Message(self, kind, content))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.listener.join()
        with contextlib.suppress(OSError):  # what it had not read yet
            self.process.communicate()


@contextlib.contextmanager
def one_thread(device: str) -> Any:
    """On a CPU, small models are fastest on one thread, and one thread computes the same bits everywhere."""
    import torch

    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def serve(jobs: BinaryIO, messages: BinaryIO) -> None:
    """The worker's side: a greeting, then job after job until the input ends."""
    lock, inbox = threading.Lock(), queue.Queue[Any]()

    def tell(kind: str, content: Any) -> None:
        with lock:
            pickle.dump((kind, content), messages)
            messages.flush()

    def read() -> None:
        while True:
            try:
                inbox.put(pickle.load(jobs))
            except (EOFError, OSError):
                os._exit(0)
            except Exception as error:
                tell("stop", f"a worker process does not know what a job names ({error}). {OWN_COMPONENTS}")
                return

    greeting = pickle.load(jobs)
    from ..plugins import load_plugins

    load_plugins(greeting["plugins"])  # before the first job, which may name what they define
    threading.Thread(target=read, daemon=True).start()
    bench = Bench(greeting["store"], greeting["device"], lambda what, amount: tell("progress", (what, amount)))
    with one_thread(bench.device):
        while True:
            try:
                tell("done", bench.run(inbox.get()))
            except UserError as error:
                tell("stop", str(error))
            except BaseException as error:  # a component that exits: this worker is not trusted with another job
                tell("died", repr(error))
                os._exit(1)


def main() -> None:
    """The worker process. Whatever a library prints must not stand among the messages."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, out)
