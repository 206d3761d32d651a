"""Values sample by sample, gathered from a run for the file beside its table (`paired`)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .grouping import grouped
from .metrics.base import Geometry, PerSampleMetric
from .paired import REUSED, SPREAD, Paired
from .plan import Plan
from .stages.flow import FlowSpec
from .stages.measure import MeasureSpec
from .stages.sample import SOLVED
from .store import Store

LOOKED_AT = 256  # of the pairs; an evaluation on a tenth of them, in whatever order, has about 26 of these
SHARED = 8  # and fewer with a chance of 1e-5. In one dimension a few single-precision numbers coincide by chance


def gather(plan: Plan, store: Store) -> Paired:
    """The values of every metric of the plan that is a mean over the samples of a reference solve; under `SPREAD` and the
    key of a transport cost the squared distances of its ends from their mean; under `REUSED` the keys of rows whose flow
    was evaluated on noise of its own training pairs."""
    found: Paired = {}
    measured = [cell.spec for cell in plan.cells if isinstance(cell.spec, MeasureSpec)]
    reused: list[str] = []
    for reference, specs in grouped(measured, lambda spec: spec.reference.key).items():
        flows = {spec.cell.flow.key: spec.cell.flow for spec in specs}  # students stand beside their teacher's solve
        each = [(s.key, s.metric) for s in specs if isinstance(s.metric, PerSampleMetric) and store.has(s.key)]
        if not (each or any(flow.pairs for flow in flows.values())) or not store.has(reference):
            continue
        solved = store.read(reference)
        geometry = Geometry(
            **{name: solved.tensors[name] for name in ("z0", *SOLVED)}, error=solved.info["error"], pilot=None
        )
        for key, metric in each:
            found[key] = metric.per_sample(geometry).float().numpy()
            if metric.name == "transport_cost":
                found[SPREAD + key] = _deviations(geometry.z1)
        known = {key for key, flow in flows.items() if _reuses(flow, geometry.z0, store)}
        reused += [spec.key for spec in specs if spec.cell.flow.key in known]
    return {**found, REUSED: np.array(reused, dtype=str)} if measured else found


def _deviations(z1: Tensor) -> np.ndarray:
    """Squared distances from the mean, scaled so that their mean is the unbiased variance."""
    z = z1.flatten(1).double()
    squares: np.ndarray = (z - z.mean(0)).square().sum(1).numpy()
    return (squares * len(z) / max(len(z) - 1, 1)).astype(np.float32)


def _reuses(flow: FlowSpec, z0: Tensor, store: Store) -> bool:
    """Whether the noise z0 began the pairs of this flow or of a round before it: the first pairs tell."""
    noise = {row.tobytes() for row in z0.flatten(1).numpy()}
    while flow.pairs is not None:
        pairs, flow = flow.pairs, flow.pairs.flow
        first = store.first(pairs.key, "z0", LOOKED_AT)
        if first is None:
            continue
        shared = sum(row.tobytes() in noise for row in flow.path.start(first).flatten(1).numpy())
        if shared >= min(SHARED, len(first), len(z0)):
            return True
    return False
