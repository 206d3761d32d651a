"""What a worker does: one job, whose outcomes go to the store and back to the run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from ..errors import Diverged
from ..flow.velocity import Field, Velocity
from ..grouping import grouped
from ..identity import key_of
from ..metrics.base import Resources
from ..metrics.features.desk import Desk, at
from ..metrics.geometry import broken_identity
from ..randomness import lent_generators
from ..stages.arithmetic import products
from ..stages.flow import FlowSpec, Pairs, PairsSpec
from ..stages.measure import AloneSpec, Lacking, MeasureSpec, PairingSpec, alone, evidence
from ..stages.pairs import halves
from ..stages.sample import Reference, ReferenceSpec, Sampled, SampleSpec, fineness, reference, sample
from ..stages.train import State, train
from ..store import Store, WriteError
from .child import NotShared
from .outcomes import Lost, Outcome, failure, valued
from .ranks import Ranks
from .reading import called_from_cpu, field_of, geometry_of, pairs_of
from .spread import Solved, Spread

TO_LOOK_AT = 64  # samples of a cell that are stored in any case

Amounts = Mapping[str, int]  # of training samples (trained), solves (sampled) and values (measured)
Progress = Callable[[str, Any], None]  # what advanced (trained | sampled | measured), by how much; or a `Point` (curve)


class Point(NamedTuple):
    """A point of a flow's loss curve, as it is being trained."""

    key: str
    samples: int
    loss: float  # the mean since the point before
    seconds: float  # since the epoch


@dataclass(frozen=True)
class Job:
    """A unit of work for one worker. `provides` are the keys it settles, `needs` those that must be ok before."""

    provides: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def pieces(self) -> list[Job]:
        """The job's parts, to be tried each alone where the whole cannot be done; none where it has no parts."""
        return []

    def without(self, key: str, broken: Outcome) -> list[Job]:
        """What can still be tried where this need ended as `broken`."""
        return self.pieces()

    def amounts(self) -> Amounts:
        """What a watcher has heard of when the job is settled, be it done or failed; its pieces' add up to it."""
        return {}


@dataclass(frozen=True, kw_only=True)
class TrainJob(Job):
    flows: tuple[FlowSpec, ...]

    def pieces(self) -> list[Job]:
        return [train_job([flow]) for flow in self.flows] if len(self.flows) > 1 else []

    def amounts(self) -> Amounts:
        return {"trained": sum(flow.train.steps * flow.train.batch for flow in self.flows)}


def train_job(flows: Sequence[FlowSpec]) -> TrainJob:
    """Flows that differ in their seed alone, trained together."""
    needs = tuple(flow.pairs.key for flow in flows if flow.pairs is not None)
    return TrainJob(tuple(flow.key for flow in flows), needs, flows=tuple(flows))


@dataclass(frozen=True, kw_only=True)
class PairsJob(Job):
    pairs: PairsSpec


@dataclass(frozen=True, kw_only=True)
class CellJob(Job):
    """One solve (a sampled cell or the reference) and the metrics of it that are missing.

    `lacking` is how the reference solve behind a sampled cell failed: only metrics that look at it fall with it.
    """

    cell: SampleSpec | ReferenceSpec
    measures: tuple[MeasureSpec, ...] = ()
    lacking: Outcome | None = None

    def pieces(self) -> list[Job]:
        if not self.measures or self.cell.key not in self.provides:
            return []
        solve = CellJob((self.cell.key,), self.needs, cell=self.cell)
        needs = (*self.needs, self.cell.key)
        parts = (CellJob((m.key,), needs, cell=self.cell, measures=(m,), lacking=self.lacking) for m in self.measures)
        return [solve, *parts]

    def without(self, key: str, broken: Outcome) -> list[Job]:
        if isinstance(self.cell, SampleSpec) and key in {m.reference.key for m in self.measures}:
            return [replace(self, needs=tuple(k for k in self.needs if k != key), lacking=broken)]
        return super().without(key, broken)

    def amounts(self) -> Amounts:
        solves = self.cell.key in self.provides  # not where one of its values is tried alone
        return {"sampled": int(solves), "measured": len(self.measures)}


@dataclass(frozen=True, kw_only=True)
class AloneJob(Job):
    """One value that needs no solve: a floor, an exact value, a property of a coupling."""

    value: AloneSpec

    def amounts(self) -> Amounts:
        return {"measured": 1}


@dataclass
class Bench:
    """Where jobs are done: the store, the device, the ear that hears of progress; of several devices, who trains and samples."""

    store: Store
    device: str
    progress: Progress = field(default=lambda what, amount: None)
    ranks: Ranks | None = None
    spread: Spread | None = None
    fresh: tuple[str, torch.Tensor] | None = field(default=None, init=False)  # the samples at hand, by their key

    def run(self, job: Job) -> dict[str, Outcome]:
        """The outcome of every key that the job provides. Only what ends the run escapes: a refused write, and what
        another process cannot know."""
        with products("float32", self.device):  # unless a stage says otherwise
            if isinstance(job, TrainJob):
                return self._train(job.flows)
            if isinstance(job, PairsJob):
                return {job.pairs.key: self._attempt(partial(self._pairs, job.pairs))}
            if isinstance(job, CellJob):
                return self._cell(job.cell, job.measures, job.lacking)
            if isinstance(job, AloneJob):
                return {job.value.key: self._alone(job.value)}
        raise TypeError(f"no job: {job!r}")

    def _train(self, flows: Sequence[FlowSpec]) -> dict[str, Outcome]:
        """Trains flows that differ in their seed alone; those that stand at the same step go on together."""
        outcomes: dict[str, Outcome] = {}
        training = partial(train, device=self.device) if self.ranks is None else self.ranks.train
        with self.store.locks([flow.key for flow in flows]):
            missing = [flow for flow in flows if not self.store.has(flow.key)]
            outcomes |= {flow.key: Outcome() for flow in flows if flow not in missing}
            states = {flow.key: self.store.checkpoint(flow.key) for flow in missing}

            def step_of(flow: FlowSpec) -> int:
                return 0 if (state := states[flow.key]) is None else int(state["step"])

            for step, group in grouped(missing, step_of).items():
                self.progress("trained", sum(step * flow.train.batch for flow in group))
                try:
                    trained = training(
                        group,
                        pairs=[pairs_of(self.store, flow.pairs) for flow in group] if group[0].pairs else None,
                        initial=self._initial(group),
                        states=[states[flow.key] for flow in group],
                        checkpoint=partial(self._checkpoint, group),
                        progress=lambda samples: self.progress("trained", samples),
                        curves=partial(self._curves, group),
                    )
                except (WriteError, NotShared):
                    raise
                except Exception as error:
                    outcomes |= {flow.key: failure(error) for flow in group}
                    continue
                for flow, result in zip(group, trained, strict=True):
                    if isinstance(result, Diverged):
                        outcomes[flow.key] = failure(result)
                        continue
                    info = {"losses": result.losses, "seconds": result.seconds, "device": self.device}
                    if self.ranks is not None:
                        info["devices"] = len(self.ranks.devices)
                    self.store.write(flow.key, flow.identity(), info, result.weights)
                    self.store.drop_checkpoint(flow.key)
                    outcomes[flow.key] = Outcome()
        return outcomes

    def _curves(self, flows: Sequence[FlowSpec], samples: int, losses: torch.Tensor) -> None:
        for flow, loss in zip(flows, losses.tolist(), strict=True):
            self.progress("curve", Point(flow.key, samples, loss, time.time()))

    def _checkpoint(self, flows: Sequence[FlowSpec], step: int, states: Sequence[State]) -> None:
        for flow, state in zip(flows, states, strict=True):
            self.store.write_checkpoint(flow.key, state)

    def _initial(self, flows: Sequence[FlowSpec]) -> list[dict[str, torch.Tensor]] | None:
        """The weights of the flows that drew the pairs, where training goes on from them."""
        if flows[0].init == "scratch":
            return None
        return [self.store.read(flow.teacher.key).tensors for flow in flows if flow.teacher is not None]

    def _pairs(self, spec: PairsSpec) -> Outcome:
        with self.store.locks([spec.key]):
            if not self.store.has(spec.key):
                pairs = Pairs.joined([part for solve, n in halves(spec) for part in self._parts(solve, spec, n)])
                tensors = {name: x for name, x in pairs._asdict().items() if x is not None}
                self.store.write(spec.key, spec.identity(), {"device": self.device}, tensors)
        return Outcome()

    def _cell(
        self, cell: SampleSpec | ReferenceSpec, measures: Sequence[MeasureSpec], lacking: Outcome | None
    ) -> dict[str, Outcome]:
        made = self._attempt(lambda: self._solve(cell))
        self.progress("sampled", 1)
        outcomes = {cell.key: made}
        for spec in measures:
            outcomes[spec.key] = (
                self._measured(spec, partial(self._measure, spec, lacking)) if made.status == "ok" else made
            )
            self.progress("measured", 1)
        return outcomes

    def _alone(self, spec: AloneSpec) -> Outcome:
        pairs = spec.pairs if isinstance(spec, PairingSpec) else None
        outcome = self._measured(spec, lambda: valued(alone(spec, pairs_of(self.store, pairs))))
        self.progress("measured", 1)
        return outcome

    def _solve(self, cell: SampleSpec | ReferenceSpec) -> Outcome:
        if self.store.has(cell.key):
            return Outcome()
        started = time.perf_counter()
        if isinstance(cell, ReferenceSpec):
            fine = fineness(cell, self._field(cell.flow), self.device)
            solved = Reference.joined(self._parts(reference, cell, cell.n, fine))
            if problem := broken_identity(solved.geometry, cell.flow.path.end_time):
                raise ArithmeticError(problem)
            geometry = {name: value for name, value in vars(solved.geometry).items() if isinstance(value, torch.Tensor)}
            tensors = {**geometry, "trajectories": solved.trajectories, "times": solved.times}
            info: dict[str, Any] = {**fine._asdict(), "nfe": solved.nfe}
            ledger, batch = solved.ledger, solved.batch
        else:
            drawn = self._sampled(cell)
            x = drawn.x.clone()  # no inference tensor: metrics may differentiate
            self.fresh = cell.key, x
            tensors = {"x": x if cell.keep else x[:TO_LOOK_AT].clone()}
            info = {**asdict(drawn.resources), "steps": drawn.steps}
            ledger, batch = drawn.ledger, drawn.batch
        info |= {"ledger": asdict(ledger), "device": self.device, "took": time.perf_counter() - started}
        if batch != cell.batch:
            info["batch"] = batch
        if self.spread is not None:
            info["devices"] = len(self.spread.devices)
        self.store.write(cell.key, cell.identity(), info, tensors)
        return Outcome()

    def _sampled(self, cell: SampleSpec) -> Sampled:
        with lent_generators(self.device, "sample", cell.key):  # to a user's solver
            return Sampled.joined(self._parts(sample, cell, cell.n))

    def _parts(self, stage: Callable[..., Any], spec: Solved, n: int, *given: Any) -> list[Any]:
        """What a stage makes of n samples, on all devices of this worker."""
        if self.spread is not None:
            return self.spread.solve(stage, spec, n, *given)
        return [stage(spec, self._field(spec.flow), self.device, range(n), *given)]

    def _measure(self, spec: MeasureSpec, lacking: Outcome | None) -> Outcome:
        nothing: Any = lacking and Lacking(Lost(lacking))  # in place of what the reference solve failed to find
        geometry, steps = (
            (nothing, spec.reference.max_steps) if lacking else geometry_of(self.store, spec.reference.key)
        )
        if isinstance(spec.cell, ReferenceSpec):
            facts = self.store.info(spec.cell.key) or {}
            generated, resources = geometry.z1, Resources(facts["nfe"], (facts["took"],), None)
        else:
            generated, facts = self._generated(spec.cell), self.store.info(spec.cell.key) or {}
            solver = spec.cell.solver  # samples of an older version have no `nfe_stderr`
            unknown = math.inf if solver.adaptive and not solver.depends_on_batch else 0.0
            costs = facts["nfe"], tuple(facts["seconds"]), facts["peak_memory_mb"], facts.get("nfe_stderr", unknown)
            resources = Resources(*costs)
        field_ = called_from_cpu(self._field(spec.cell.flow), self.device)
        pairs = pairs_of(self.store, spec.cell.flow.pairs)
        teacher = (
            None if spec.teacher is None else geometry if lacking else geometry_of(self.store, spec.teacher.key)[0]
        )
        seen = evidence(spec.cell, generated, geometry, resources, field_, steps, pairs, teacher)
        outcome = valued(spec.metric.measure(seen))
        vjps = seen.velocity.vjps if isinstance(seen.velocity, Velocity) else 0
        return replace(outcome, vjp=vjps / max(outcome.n or 0, 1))

    def _generated(self, cell: SampleSpec) -> torch.Tensor:
        """A cell's samples: those at hand, those stored or, where they were not kept, the same drawn again."""
        if self.fresh is None or self.fresh[0] != cell.key:
            x = self.store.read(cell.key).tensors["x"]
            self.fresh = cell.key, x if len(x) == cell.n else self._sampled(cell).x.clone()
        return self.fresh[1]

    def _measured(self, spec: MeasureSpec | AloneSpec, measure: Callable[[], Outcome]) -> Outcome:
        started = time.perf_counter()
        own = lent_generators(self.device, "measure", spec.key)  # to a user's metric
        with at(Desk(self.device, self._remember)), own:
            result = self._attempt(measure)
        facts = {"seconds": time.perf_counter() - started, "device": self.device}
        if isinstance(spec, MeasureSpec):
            info = self.store.info(spec.cell.key) or {}
            facts |= {"nfe": info.get("nfe"), "steps": round(info["steps"]) if "steps" in info else None}
            facts |= {**info.get("ledger", {}), "batch": info.get("batch")}
        result = Outcome(**{**asdict(result), **facts})
        if result.status in ("ok", "skipped") and not result.again:
            kept = {name: v for name, v in asdict(result).items() if name not in ("trace", "again")}
            self.store.write(spec.key, spec.identity(), kept)
        return result

    def _remember(self, facts: dict[str, Any], make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What a metric knows of real data (`Desk.remember`): made once, shared by all runs."""
        identity = {"stage": "reference_features", "version": 1, **facts}
        key = key_of(identity)
        with self.store.locks([key]):
            if not self.store.has(key):
                self.store.write(key, identity, {"device": self.device}, make())
        return self.store.read(key).tensors

    def _field(self, flow: FlowSpec) -> Field:
        return field_of(self.store, flow, self.device)

    def _attempt(self, work: Callable[[], Outcome]) -> Outcome:
        try:
            return work()
        except (WriteError, NotShared):
            raise
        except Exception as error:
            return failure(error)
