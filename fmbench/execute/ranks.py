"""One flow trained on several devices: a process (rank) for each, joined by accelerate (gloo on CPUs, NCCL on GPUs).

The worker that has the job starts the ranks, hears them and ends them; it computes nothing itself, so that no loss of a
rank can hold it up. What rank 0 has to say (progress, checkpoints, the outcome) is what `train` says.
"""

from __future__ import annotations

import os
import queue
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.distributed import TCPStore

from ..errors import Diverged
from ..stages.arithmetic import products
from ..stages.flow import FlowSpec, Pairs
from ..stages.share import Parted, Share
from ..stages.train import State, Trained, train
from .child import Child, NotShared, connected, portable

TICK = 0.2  # seconds between looks up while nothing is heard: an interrupted thread must notice
PATIENCE = 10.0  # seconds that a rank without the others leaves them to say why


def neighbours(device: str, count: int) -> list[str]:
    """The devices of one flow: `count` GPUs from this one on, or the CPU so many times."""
    if device == "cpu" or count == 1:
        return [device] * count
    first = int(device.removeprefix("cuda:"))
    return [f"cuda:{first + i}" for i in range(count)]


@dataclass(frozen=True)
class Ranks:
    """Trains on several devices, and is otherwise `train`."""

    devices: Sequence[str]
    plugins: Sequence[str] = ()

    def train(
        self,
        specs: Sequence[FlowSpec],
        *,
        pairs: Sequence[Pairs | None] | None = None,
        initial: Sequence[dict[str, torch.Tensor]] | None = None,
        states: Sequence[State | None] | None = None,
        checkpoint: Callable[[int, list[State]], None] | None = None,
        progress: Callable[[int], None] = lambda samples: None,
        curves: Callable[[int, torch.Tensor], None] | None = None,
    ) -> list[Trained | Diverged]:
        """As `stages.train.train`.

        Raises:
            What a rank raised, with the rank's traceback as a note. NotShared: a rank does not know a flow's parts.
            RuntimeError: a rank died.
        """
        if self.devices[0].startswith("cuda"):
            torch.cuda.empty_cache()  # what this process sampled with is the rank's now
        named = {"checkpoint": checkpoint, "progress": progress, "curves": curves}
        ears = {kind: ear for kind, ear in named.items() if ear is not None}
        work = {"specs": specs, "pairs": pairs, "initial": initial, "states": states}
        messages: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        ranks: list[Child] = []
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            meeting = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, use_libuv=False,
                               master_listen_fd=listening.detach())  # fmt: skip
        try:
            for index in range(len(self.devices)):
                heard = partial(lambda index, kind, content: messages.put((index, kind, content)), index)
                ranks.append(Child(__name__, heard))
            for index, (rank, device) in enumerate(zip(ranks, self.devices, strict=True)):
                share = Share(index, len(ranks))
                rank.send({"plugins": self.plugins, "share": share, "device": device, "port": port})
                rank.send({**work, "told": list(ears) if index == 0 else []})
            while True:
                try:
                    index, kind, content = messages.get(timeout=TICK)
                except queue.Empty:
                    continue
                if kind == "trained":
                    return content
                if kind == "raised":
                    raise content
                if kind == "stop":
                    raise NotShared(content)
                if kind == "died":
                    raise RuntimeError(f"rank {index} of {len(ranks)}: {content}")
                ears[kind](*content)
                if kind == "checkpoint":
                    ranks[index].send("written")
        finally:
            for rank in ranks:
                rank.close()
            del meeting  # only now: the ranks may ask there until they end


def main() -> None:
    """A rank."""
    greeting, receive, tell = connected()
    share, device = greeting["share"], greeting["device"]
    given: dict[str, Any] = receive()

    def saying(kind: str) -> Callable[..., None]:
        def say(*content: Any) -> None:
            tell(kind, content)
            if kind == "checkpoint":
                receive()  # as long as the writing lasts: checkpoints are paced by what they cost

        return say

    given |= {kind: saying(kind) for kind in given.pop("told")}
    try:
        _join(share, device, greeting["port"])
        with products("float32", device):  # unless a stage says otherwise
            trained = train(**given, device=device, share=share)
        if share.index == 0:
            tell("trained", trained)
    except Exception as error:
        if isinstance(error, Parted):
            time.sleep(PATIENCE)  # the parent hears the cause, and ends this rank
        tell("raised", portable(error, f"on rank {share.index} of {share.count}"))
    receive()  # the end comes from outside: a rank that left by itself would part from those that still compute


def _join(share: Share, device: str, port: int) -> None:
    """Connects the ranks, which find each other where their parent listens."""
    from accelerate import PartialState

    kind, _, index = device.partition(":")
    local = int(index or share.index)  # accelerate's name for the index of the GPU
    told = {"RANK": share.index, "WORLD_SIZE": share.count, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": share.count}
    os.environ |= {name: str(value) for name, value in told.items()}
    PartialState(
        cpu=kind == "cpu",
        backend="gloo" if kind == "cpu" else "nccl",
        store=TCPStore("127.0.0.1", port, use_libuv=False),
        rank=share.index,
        world_size=share.count,
    )
