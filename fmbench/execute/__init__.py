"""Runs a plan: what is already in the store is taken, the rest becomes jobs for the workers."""

from __future__ import annotations

import os
import queue
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from ..errors import UserError
from ..grouping import grouped
from ..stages.flow import FlowSpec, PairsSpec
from ..stages.measure import AloneSpec, MeasureSpec, PairingSpec
from ..stages.sample import ReferenceSpec, SampleSpec
from ..stages.train import seeds_at_once
from ..store import Store
from .cluster import RayWorker, devices_of_cluster
from .jobs import AloneJob, Amounts, CellJob, Job, PairsJob, TrainJob, train_job
from .outcomes import Outcome
from .workers import Message, ProcessWorker, ThreadWorker, Worker

if TYPE_CHECKING:  # workers, which import this package too, plan nothing: a second less until they start
    from ..plan import Plan

__all__ = ["Missing", "Outcome", "execute", "missing"]

TICK = 0.2  # seconds between looks at the clock while nothing is heard


@dataclass(frozen=True)
class Missing:
    """What a run would still have to do."""

    outcomes: dict[str, Outcome]  # of every measured value that the store holds
    jobs: list[Job]

    @property
    def train_samples(self) -> int:
        return self._sum("trained")

    @property
    def solves(self) -> int:
        return self._sum("sampled")

    @property
    def values(self) -> int:
        return self._sum("measured")

    def _sum(self, what: str) -> int:
        return sum(job.amounts().get(what, 0) for job in self.jobs)


def missing(plan: Plan, store: Store, workers: int = 1, devices_per_flow: int = 1) -> Missing:
    """Compares a plan with the store, and cuts what is left into jobs for so many workers.

    Failures are not stored, so a re-run tries them again.

    Raises:
        UserError: a batch of what is to be trained cannot be shared by so many devices.
    """
    specs = {cell.spec.key: cell.spec for cell in plan.cells}
    outcomes = {key: Outcome(**info) for key in specs if (info := store.info(key)) is not None}
    alone = [spec for key, spec in specs.items() if key not in outcomes and not isinstance(spec, MeasureSpec)]
    measures = [spec for key, spec in specs.items() if key not in outcomes and isinstance(spec, MeasureSpec)]

    by_cell = grouped(measures, lambda spec: spec.cell.key)
    pairings = [spec.pairs for spec in alone if isinstance(spec, PairingSpec) and spec.pairs is not None]
    jobs: list[Job] = [_alone_job(spec) for spec in alone]
    references = {r.key: r for spec in measures for r in (spec.reference, spec.teacher) if r is not None}
    for reference in references.values():
        own = by_cell.get(reference.key, [])
        if own or not store.has(reference.key):
            teachers = {spec.teacher.key for spec in own if spec.teacher is not None}
            jobs.append(_cell_job(reference, own, needs=(*_flow_keys(reference.flow), *sorted(teachers))))
    for group in by_cell.values():
        cell, reference = group[0].cell, group[0].reference
        if not isinstance(cell, ReferenceSpec):
            jobs.append(_cell_job(cell, group, needs=(*_flow_keys(cell.flow), reference.key)))
    solved = {spec.flow.key: spec.flow for spec in (*references.values(), *(spec.cell for spec in measures))}
    jobs = _flow_jobs(list(solved.values()), pairings, store, workers, devices_per_flow) + jobs
    provided = {key for job in jobs for key in job.provides}
    jobs = [replace(job, needs=tuple(key for key in job.needs if key in provided)) for job in jobs]
    return Missing(outcomes, jobs)


def _flow_keys(flow: FlowSpec) -> tuple[str, ...]:
    return (flow.key,) if flow.model.trained else ()


def _alone_job(spec: AloneSpec) -> AloneJob:
    needs = (spec.pairs.key,) if isinstance(spec, PairingSpec) and spec.pairs is not None else ()
    return AloneJob((spec.key,), needs, value=spec)


def _cell_job(cell: SampleSpec | ReferenceSpec, measures: Sequence[MeasureSpec], needs: tuple[str, ...]) -> CellJob:
    return CellJob((cell.key, *(m.key for m in measures)), needs, cell=cell, measures=tuple(measures))


def _flow_jobs(
    flows: Sequence[FlowSpec], pairs: Sequence[PairsSpec], store: Store, workers: int, devices_per_flow: int
) -> list[Job]:
    """Training and pair-drawing jobs for flows and pairs (and the rounds before them) that the store lacks.

    Flows that differ in their seed alone share a job where their model says that this is faster, but not so many that a
    worker is left without one; on several devices a flow is trained alone.
    """
    wanted: dict[str, FlowSpec] = {}
    drawn: dict[str, PairsJob] = {}

    def want(flow: FlowSpec) -> None:
        if flow.model.trained and flow.key not in wanted and not store.has(flow.key):
            wanted[flow.key] = flow
            if flow.pairs is not None:
                want_pairs(flow.pairs)

    def want_pairs(pairs: PairsSpec) -> None:
        if pairs.key not in drawn and not store.has(pairs.key):
            drawn[pairs.key] = PairsJob((pairs.key,), _flow_keys(pairs.flow), pairs=pairs)
            want(pairs.flow)

    for flow in flows:
        want(flow)
    for spec in pairs:
        want_pairs(spec)
    for flow in wanted.values():
        if flow.train.batch % devices_per_flow:
            raise UserError(
                f"--devices-per-flow {devices_per_flow}: train.batch = {flow.train.batch} cannot be shared equally. "
                "Give a divisor of the batch, or another batch (--set train.batch=…)"
            )
    groups = grouped(wanted.values(), lambda flow: flow.model_copy(update={"seed": 0, "pairs": None}).key)
    beside = Counter(_level(group[0]) for group in groups.values())  # groups that can train at the same time
    trainings: list[TrainJob] = []
    for group in groups.values():
        share = workers // beside[_level(group[0])]
        together = seeds_at_once(group[0]) if devices_per_flow == 1 else 1
        parts = max(-(-len(group) // together), min(len(group), share))
        size = -(-len(group) // parts)
        trainings += [train_job(group[i : i + size]) for i in range(0, len(group), size)]
    # The longest first, so that no worker is left alone with one at the end: OT couplings are slow, then many seeds.
    trainings.sort(key=lambda job: (job.flows[0].coupling.name != "independent", len(job.flows)), reverse=True)
    return [*trainings, *drawn.values()]


def _level(flow: FlowSpec) -> tuple[int, bool]:
    """Flows of one level wait for the same rounds before them."""
    return flow.reflow, flow.distilled > 0


@dataclass
class _Schedule:
    """Jobs that wait, what has become of every key, and how far a watcher was told that each job at work is."""

    waiting: list[Job]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    tell: Callable[[str, int], None] = lambda what, amount: None
    told: dict[tuple[str, ...], Counter[str]] = field(default_factory=dict)

    def heard(self, job: Job, what: str, amount: int) -> None:
        """Progress of a job at work."""
        self.told.setdefault(job.provides, Counter())[what] += amount
        self.tell(what, amount)

    def end(self, job: Job, amounts: Amounts) -> None:
        """What was told of a job is made to add up to `amounts`: of failed work too, or a bar would stand still."""
        told = self.told.pop(job.provides, Counter())
        for what in {**told, **amounts}:
            if lacking := amounts.get(what, 0) - told[what]:
                self.tell(what, lacking)

    def done(self, job: Job, outcomes: dict[str, Outcome]) -> None:
        self.end(job, job.amounts())
        self.settle(outcomes)

    def settle(self, outcomes: dict[str, Outcome]) -> None:
        """Takes in outcomes; jobs, or pieces of them, whose needs failed are settled by that failure, and so on down."""
        self.outcomes |= outcomes
        changed = True
        while changed:
            changed = False
            for job in list(self.waiting):
                ended = ((k, o) for k in job.needs if (o := self.outcomes.get(k)) is not None)
                key, broken = next(((k, o) for k, o in ended if o.status != "ok"), ("", None))
                if broken is not None:
                    self.waiting.remove(job)
                    pieces = job.without(key, broken)
                    self.waiting += pieces
                    if not pieces:
                        self.outcomes |= dict.fromkeys(job.provides, broken)
                        self.end(job, job.amounts())
                    changed = True

    def lose(self, job: Job, reason: str) -> None:
        """A job that took its worker down: its pieces are tried alone, so that only the guilty one fails."""
        if pieces := job.pieces():
            self.waiting = pieces + self.waiting
            self.end(job, {})
        else:
            self.done(job, {key: Outcome("failed", reason) for key in job.provides})

    def next(self) -> Job | None:
        for job in self.waiting:
            if all(key in self.outcomes for key in job.needs):
                self.waiting.remove(job)
                return job
        return None


def execute(
    work: Missing,
    store: Store,
    *,
    devices: Sequence[str],
    plugins: Sequence[str] = (),
    ray: bool = False,
    devices_per_flow: int = 1,
    on_progress: Callable[[str, int], None] = lambda what, amount: None,
    on_outcomes: Callable[[dict[str, Outcome]], None] = lambda outcomes: None,
) -> dict[str, Outcome]:
    """Does the missing work, one worker for each entry of `devices` (a device may stand several times); `ray`: on a cluster.

    Args:
        devices_per_flow: on how many devices a worker trains (`Ranks`) and samples (`Spread`), its own first.

    Returns:
        The outcome of every measured value, old and new, and of the stages behind them.

    Raises:
        UserError: the disk refused a write. What was finished before stays in the store.
    """
    schedule = _Schedule(list(work.jobs), dict(work.outcomes), on_progress)
    messages: queue.Queue[Message] = queue.Queue()
    devices = devices[: max(1, len(work.jobs))]

    def hire(device: str) -> Worker:
        if ray:
            return RayWorker(messages, device, store, plugins)
        if len(devices) == 1:
            return ThreadWorker(messages, device, store, plugins, devices_per_flow)
        return ProcessWorker(messages, device, store, plugins, devices_per_flow)

    workers = [hire(device) for device in devices] if work.jobs else []
    idle = list(workers)
    try:
        while schedule.waiting or len(idle) < len(workers):
            while idle and (job := schedule.next()) is not None:
                idle.pop().submit(job)
            if schedule.waiting and len(idle) == len(workers):
                raise RuntimeError(f"no job can start: {schedule.waiting[0].needs} are provided by none")
            try:
                message = messages.get(timeout=TICK)
            except queue.Empty:
                on_outcomes(schedule.outcomes)
                continue
            worker = message.worker
            if message.kind == "progress":
                what, amount = message.content
                if what == "curve" or worker.job is None:
                    on_progress(what, amount)
                else:
                    schedule.heard(worker.job, what, amount)
            elif message.kind == "stop":
                worker.job = None
                raise UserError(message.content)
            elif message.kind == "done":
                assert worker.job is not None
                schedule.done(worker.job, message.content)
                worker.job, worker.proven = None, True
                idle.append(worker)
                on_outcomes(schedule.outcomes)
            elif message.kind == "died" and worker in workers:
                if worker.job is not None:
                    schedule.lose(worker.job, message.content)
                elif not worker.proven:
                    raise UserError(f"a worker process could not start: {message.content}. Try --workers 1.")
                worker.job = None
                worker.close()
                workers, idle = ([w for w in group if w is not worker] for group in (workers, idle))
                if schedule.waiting:
                    workers.append(hire(worker.device))
                    idle.append(workers[-1])
    finally:
        for worker in workers:
            worker.close()
    return schedule.outcomes


def devices_for(
    device: str | None, workers: int | None, ray: str | None = None, devices_per_flow: int = 1
) -> list[str]:
    """The device of each worker: every GPU once, or the CPU once for each core, unless told otherwise.

    A worker that has several devices is told the first of them.

    Raises:
        UserError: the device or the cluster is not there.
    """
    for name, count in (("workers", workers), ("devices-per-flow", devices_per_flow)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"--{name} {count}: a whole number, at least 1")
    if ray is not None:
        if device is not None:
            raise UserError("--device and --ray: the cluster says which devices it has. Give one of the two.")
        if devices_per_flow > 1:
            raise UserError(
                "--devices-per-flow and --ray: on a cluster, a flow is trained on one device. Leave one out."
            )
        return devices_of_cluster(ray, workers)

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UserError(f"--device {device}: valid are cpu, cuda and cuda:0, cuda:1, …")
    if kind == "cpu":
        cores = len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
        return ["cpu"] * (workers or max(1, cores // devices_per_flow))
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0 or (index and int(index) >= count):
        raise UserError(
            f"--device {device}: this machine has {count} CUDA devices that torch can use. Use --device cpu."
        )
    held = 1 if index else count
    if devices_per_flow > held:
        raise UserError(
            f"--devices-per-flow {devices_per_flow}: --device {device} stands for {held} CUDA devices. Give at most so many."
        )
    gpus = [device] if index else [f"cuda:{i}" for i in range(0, count - devices_per_flow + 1, devices_per_flow)]
    return (gpus * -(-(workers or len(gpus)) // len(gpus)))[: workers or len(gpus)]
