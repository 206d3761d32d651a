"""TensorBoard: loss and throughput of the trainings of a run, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import UserError
from .execute.jobs import Point
from .naming import flow_columns
from .plan import Plan


class TensorBoard:
    """One curve a flow, over the samples that it has seen: its `loss`, and `samples_per_second` of the training.

    Flows that are trained as one computation share its time: each then shows the throughput of all of them, over their number.
    A training that goes on from a checkpoint takes the place of what an earlier run wrote beyond it.

    Raises:
        UserError: TensorBoard is not installed.
    """

    name = "tensorboard"

    def __init__(self, folder: Path, plan: Plan):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--log tensorboard: TensorBoard is not installed. pip install 'flow-matching-bench[tensorboard]'"
            ) from None
        self.flows = {flow.key: flow_columns(flow) for flow in plan.flows()}
        self.open: Callable[[str, int], Any] = lambda name, first: SummaryWriter(str(folder / name), purge_step=first)
        self.writers: dict[str, Any] = {}
        self.last: dict[str, Point] = {}

    def add(self, point: Point) -> None:
        if point.key not in self.writers:
            columns = self.flows[point.key]
            name = " ".join(f"{columns['data']} {columns['method']} seed {columns['seed']}".replace("/", "-").split())
            self.writers[point.key] = self.open(f"{name} {point.key[-6:]}", point.samples)
        writer, before = self.writers[point.key], self.last.get(point.key)
        writer.add_scalar("loss", point.loss, point.samples, walltime=point.seconds)
        if before is not None and point.seconds > before.seconds:
            speed = (point.samples - before.samples) / (point.seconds - before.seconds)
            writer.add_scalar("samples_per_second", speed, point.samples, walltime=point.seconds)
        writer.flush()  # a killed run must not lose what lies before its checkpoint
        self.last[point.key] = point

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()
