"""Measuring: a metric applied to one cell, to a training coupling, or to real data alone (the floor)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pydantic import PositiveInt
from torch import Tensor

from ..data.base import Data
from ..errors import Skip, UserError
from ..flow.couplings import Coupling
from ..flow.velocity import Field, Velocity
from ..identity import Spec
from ..metrics.base import Evidence, Exact, Geometry, Labelled, Metric, Pairing, Resources
from ..metrics.coupling import Minibatch
from ..models import MODELS
from ..models.base import Model
from ..randomness import generator
from ..solvers.base import Solver
from ..solvers.grids import Grid
from ..statistics import Estimate
from .flow import FlowSpec, Pairs, PairsSpec
from .sample import ReferenceSpec, SampleSpec, asked_labels, reference_times


class MeasureSpec(Spec):
    """One row: a metric of a cell. For metrics of the flow itself the cell is the reference solve.

    `teacher` is the reference solve of the flow that drew the pairs, where the metric asks for it.
    """

    stage = "measure"
    shaping = frozenset({"cell", "reference", "metric", "teacher"})
    unchanged = {"teacher": None}

    cell: SampleSpec | ReferenceSpec
    reference: ReferenceSpec
    metric: Metric
    teacher: ReferenceSpec | None = None


class PairingSpec(Spec):
    """One row: a metric of a training coupling; nothing is trained for it but the rounds that reflow pairs come from."""

    stage = "pairing"
    shaping = frozenset({"data", "source", "coupling", "batch", "pairs", "metric", "sample_seed"})

    data: Data
    source: Data
    coupling: Coupling
    batch: PositiveInt
    pairs: PairsSpec | None
    metric: Metric
    sample_seed: int


class FloorSpec(Spec):
    """One floor row: a metric between independent draws of real data, n samples a side."""

    stage = "floor"
    shaping = frozenset({"data", "metric", "n", "sample_seed"})

    data: Data
    metric: Metric
    n: int
    sample_seed: int


class TruthSpec(Spec):
    """One row of an exact value, which a metric measured on an oracle's flow should have; of samples, a fixed-step solver's."""

    stage = "truth"
    version = 2  # solver_error of mixtures in the plane was read off a grid too coarse for it
    shaping = frozenset({"flow", "metric", "solver", "steps", "grid"})
    unchanged = {"solver": None, "steps": None, "grid": None}

    flow: FlowSpec
    metric: Metric
    solver: Solver | None = None
    steps: PositiveInt | None = None
    grid: Grid | None = None


class GivenSpec(Spec):
    """One row: a metric of the first n samples that a model of `given = True` holds."""

    stage = "given"
    shaping = frozenset({"data", "model", "metric", "n", "sample_seed"})

    data: Data
    model: Model
    metric: Metric
    n: PositiveInt
    sample_seed: int


AloneSpec = FloorSpec | TruthSpec | PairingSpec | GivenSpec  # what is measured without a solve


def evidence(
    cell: SampleSpec | ReferenceSpec,
    generated: Tensor,
    geometry: Geometry,
    resources: Resources,
    field: Field,
    steps: int,
    pairs: Pairs | None = None,
    teacher: Geometry | None = None,
) -> Evidence:
    """What a metric may look at in this cell. `steps` are those of the reference solve, `pairs` the flow's reflow pairs."""
    flow, oracle, label = cell.flow, exact_field(cell.flow), asked_labels(cell)
    drawn = (flow.data, flow.source, flow.coupling, flow.train.batch, cell.sample_seed, pairs)
    return Evidence(
        data=flow.data,
        source=flow.source,
        coupling=flow.coupling,
        train_batch=flow.train.batch,
        coupled=coupled(*drawn),
        labelled=None if flow.classes is None else labelled(*drawn),
        fixed=None if pairs is None else len(pairs[0]),
        path=flow.path,
        generated=generated,
        label=label,
        geometry=geometry,
        resources=resources,
        teacher=teacher,
        velocity=Velocity(unlabelled(flow, field), path=flow.path),
        ask=partial(_ask, field, generated[:1], None if label is None else label[:1]),
        conditional=None if flow.classes is None else partial(_conditional, field, cell.guidance),
        oracle=None if oracle is None else unlabelled(flow, oracle),
        source_log_density=start_log_density(flow) if flow.model.dense else None,
        end_time=flow.path.end_time,
        distilled=flow.distilled,
        reference_steps=steps,
        tolerance=cell.tolerance if isinstance(cell, ReferenceSpec) else None,
        reference_grid=partial(reference_times, flow.path),
        seed=cell.sample_seed,
    )


class Lacking:
    """In place of what a cell lacks: a metric that looks at it ends with this error, the others do not know."""

    def __init__(self, error: Exception):
        self._error = error

    def __getattr__(self, name: str) -> Any:
        raise self._error


def given_evidence(spec: GivenSpec) -> Evidence:
    """What a metric may look at where samples alone are given."""
    nothing: Any = Lacking(Skip("samples alone are given: this needs the flow that made them"))
    lacking = ("source", "coupling", "train_batch", "coupled", "path", "geometry", "resources")
    generated = spec.model.samples(spec.data)[: spec.n]
    return Evidence(data=spec.data, generated=generated, seed=spec.sample_seed, **dict.fromkeys(lacking, nothing))


def coupled(
    data: Data, source: Data, coupling: Coupling, batch: int, seed: int, pairs: Pairs | None = None
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function of n: n pairs (x0, x1) as training draws them, from streams that no training uses, nested in n.

    Args:
        pairs: of a reflow round: then n of these, without repetition.
    """
    draw = labelled(data, source, coupling, batch, seed, pairs)
    return lambda n: draw(n)[:2]


def labelled(
    data: Data, source: Data, coupling: Coupling, batch: int, seed: int, pairs: Pairs | None = None
) -> Callable[[int], Labelled]:
    """As `coupled`, with the labels `(n,)` of the pairs, if they have any."""

    def draw(n: int) -> Labelled:
        if pairs is not None:
            if n > len(pairs[0]):
                raise Skip(f"{n} pairs asked for, the round was trained on {len(pairs[0])}: lower the metric's n")
            index = torch.randperm(len(pairs[0]), generator=generator("coupled", seed))[:n]
            z0, z1, label = Pairs(*pairs)
            return z0[index], z1[index], None if label is None else label[index]
        size = coupling.size(batch)
        parts = [Minibatch.draw(data, source, coupling, size, seed, k) for k in range(-(-n // size))]
        x0, x1 = (torch.cat(side)[:n] for side in zip(*(part.pairs for part in parts), strict=True))
        labels = [part.label[part.j] for part in parts if part.label is not None]
        return x0, x1, torch.cat(labels)[:n] if labels else None

    return draw


def exact(spec: TruthSpec) -> Exact:
    """What an exact value follows from."""
    flow, solver = spec.flow, spec.solver
    parts = flow.path, flow.source, flow.data, flow.coupling
    if solver is None or spec.grid is None or spec.steps is None:
        return Exact(*parts)
    times = spec.grid.on(flow.path, spec.steps)
    return Exact(*parts, lambda v, z0: solver.integrate(Velocity(v, path=flow.path), z0, times).x)


def exact_field(flow: FlowSpec) -> Field | None:
    """The exact marginal velocity, by the first registered oracle that knows it; None where none does."""
    if flow.pairs is not None:
        return None
    for name in MODELS.names():
        if MODELS.get(name).exact:
            try:
                return MODELS.build(name).field(flow.path, flow.coupling, flow.source, flow.data)
            except UserError:  # its way of saying that it does not know such a flow
                continue
    return None


def unlabelled(flow: FlowSpec, field: Field) -> Field:
    """A field for metrics that ask for velocities where no label is known.

    A conditional flow's is refused: what the network says without a label is another flow's velocity.
    """
    if flow.classes is None:
        return field

    def refused(t: Tensor, x: Tensor) -> Tensor:
        raise Skip(
            "this metric asks for the flow's velocity at points without a label: a conditional flow has none there"
        )

    return refused


def _conditional(field: Field, guidance: float, t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """A conditional flow's velocity at points of these labels, as it was trained."""
    if guidance != 1:
        raise Skip(
            f"guidance = {guidance:g}: the loss on pairs is that of the velocity that was trained, which is not guided"
        )
    return field(t, x, label)


def _ask(field: Field, x: Tensor, label: Tensor | None, n: int) -> Tensor:
    """One call of the field at t = 0 on n copies of x `(1, *shape)`, with its label `(1,)`."""
    given = [] if label is None else [label.repeat(n)]
    return field(torch.zeros((), dtype=torch.float64), torch.cat([x] * n), *given)


def start_log_density(flow: FlowSpec) -> Callable[[Tensor], Tensor]:
    """Log density of the state σ_0 x0 at t = 0, from the source's own."""
    sigma = flow.path.start(flow.source.take("train", 1).new_ones(())).double()
    d = math.prod(flow.data.shape)

    def log_density(z: Tensor) -> Tensor:
        log_p = flow.source.log_density(z.double() / sigma)
        if log_p is None:
            raise Skip(f"the density of source '{flow.source.name}' is not known")
        return log_p - d * sigma.log()

    return log_density


def alone(spec: AloneSpec, pairs: Pairs | None = None) -> Estimate:
    """The value of a row that needs no solve; `pairs` are those of a reflow round."""
    if isinstance(spec, PairingSpec):
        draw = coupled(spec.data, spec.source, spec.coupling, spec.batch, spec.sample_seed, pairs)
        known = {"data": spec.data, "source": spec.source, "coupling": spec.coupling, "seed": spec.sample_seed}
        known |= {"train_batch": spec.batch, "fixed": None if pairs is None else len(pairs[0]), "coupled": draw}
        return spec.metric.measure(Pairing(**known))  # type: ignore[arg-type]
    if isinstance(spec, GivenSpec):
        return spec.metric.measure(given_evidence(spec))
    if isinstance(spec, TruthSpec):
        value = spec.metric.true_value(exact(spec))
        if value is None:
            raise Skip(f"the exact value of '{spec.metric.name}' is not known here")
        return Estimate(value, 0.0, 1)
    estimate = spec.metric.floor(spec.data, spec.n, spec.sample_seed)
    if estimate is None:
        raise Skip(f"'{spec.metric.name}' has no floor on data set '{spec.data.name}'")
    return estimate
