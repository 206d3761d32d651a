"""Measuring: a metric applied to one cell, or to real data alone (the floor)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from ..data.base import Data
from ..errors import Skip
from ..flow.velocity import Field
from ..identity import Spec
from ..metrics.base import Evidence, Geometry, Metric, Resources
from ..statistics import Estimate
from .flow import FlowSpec
from .sample import ReferenceSpec, SampleSpec, reference_times


class MeasureSpec(Spec):
    """One row: a metric of a cell. For metrics of the flow itself the cell is the reference solve."""

    stage = "measure"
    shaping = frozenset({"cell", "reference", "metric"})

    cell: SampleSpec | ReferenceSpec
    reference: ReferenceSpec
    metric: Metric


class FloorSpec(Spec):
    """One floor row: a metric between independent draws of real data, n samples a side."""

    stage = "floor"
    shaping = frozenset({"data", "metric", "n", "sample_seed"})

    data: Data
    metric: Metric
    n: int
    sample_seed: int


def evidence(
    cell: SampleSpec | ReferenceSpec,
    generated: Tensor,
    geometry: Geometry,
    resources: Resources,
    field: Field,
    steps: int,
) -> Evidence:
    """What a metric may look at in this cell. `steps` are those of the reference solve."""
    flow = cell.flow
    return Evidence(
        data=flow.data,
        generated=generated,
        geometry=geometry,
        resources=resources,
        velocity=field,
        source_log_density=start_log_density(flow),
        end_time=flow.path.end_time,
        reference_steps=steps,
        reference_grid=partial(reference_times, flow.path),
        seed=cell.sample_seed,
    )


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


def floor(spec: FloorSpec) -> Estimate:
    """The metric between independent draws of real data."""
    estimate = spec.metric.floor(spec.data, spec.n, spec.sample_seed)
    if estimate is None:
        raise Skip(f"'{spec.metric.name}' has no floor on data set '{spec.data.name}'")
    return estimate
