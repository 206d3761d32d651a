"""Jobs on a Ray cluster: one actor for each CPU or GPU, all with one cache (FMBENCH_CACHE on a shared disk)."""

from __future__ import annotations

import importlib
import os
import queue
import threading
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..plugins import load_plugins
from ..store import Store
from .child import environment
from .jobs import Bench, Job
from .outcomes import Outcome
from .workers import Message, Worker, one_thread

Progress = list[tuple[str, int]]


class Serving:
    """The actor's side: a bench on the node where Ray has put it."""

    def __init__(self, store: Store, device: str, plugins: Sequence[str]):
        load_plugins(plugins)  # before the first job, which may name what they define
        self.heard: Progress = []
        self.bench = Bench(store, device, lambda what, amount: self.heard.append((what, amount)))

    def run(self, job: Job) -> tuple[dict[str, Outcome] | str, Progress]:
        """The outcomes, or the mistake that ends the run; and what went on meanwhile."""
        self.heard.clear()
        with one_thread(self.bench.device):
            try:
                return self.bench.run(job), list(self.heard)
            except UserError as error:
                return str(error), list(self.heard)


class RayWorker(Worker):
    """Jobs in an actor. Its progress is told when a job is done."""

    def __init__(self, messages: queue.Queue[Message], device: str, store: Store, plugins: Sequence[str]):
        super().__init__(messages, device)
        ray = _ray()
        kind = ray.remote(num_cpus=1, num_gpus=int(device != "cpu"), runtime_env={"env_vars": environment()})
        files = [os.path.abspath(p) if str(p).endswith(".py") else p for p in plugins]
        self.actor = kind(Serving).remote(store, device, files)

    def _start(self, job: Job) -> None:
        threading.Thread(target=self._wait, args=(self.actor.run.remote(job),), daemon=True).start()

    def _wait(self, answer: Any) -> None:
        try:
            found, heard = _ray().get(answer)
        except Exception as error:  # the actor's death has many names
            self.messages.put(Message(self, "died", f"the Ray actor ended: {' '.join(str(error).split())[:300]}"))
            return
        for step in heard:
            self.messages.put(Message(self, "progress", step))
        self.messages.put(Message(self, "stop" if isinstance(found, str) else "done", found))

    def close(self) -> None:
        _ray().kill(self.actor)


def devices_of_cluster(address: str, workers: int | None) -> list[str]:
    """Connects to a cluster ("auto", or its address); the device of each worker: every GPU, else every CPU, it has.

    Raises:
        UserError: Ray is not installed, the cluster does not answer, or it has less than was asked for.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: at least 1")
    ray = _ray()
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"--ray {address}: no Ray cluster answers ({said}). Start one with `ray start --head`."
        ) from None
    held = ray.cluster_resources()
    device, count = ("cuda", int(held.get("GPU", 0))) if held.get("GPU") else ("cpu", int(held.get("CPU", 0)))
    if count < (workers or 1):
        raise UserError(f"--ray {address}: the cluster has {count} {device} devices, {workers or 1} are asked for")
    return [device] * (workers or count)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise UserError("--ray needs Ray, which is not installed: `pip install 'flow-matching-bench[ray]'`") from None
