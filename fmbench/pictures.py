"""What the report draws: data, trajectories and samples, packed beside the table."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np

from .naming import FLOW_COLUMNS, flow_columns
from .plan import Plan
from .stages.measure import MeasureSpec
from .stages.sample import ReferenceSpec, SampleSpec
from .store import Store
from .table import flow_labels, frame, sampler_labels

PICTURED = 512  # points drawn of each set of 2-D samples; images: 36


def pictures(plan: Plan, store: Store) -> bytes:
    """Trajectories and samples of each method's first seed, and the data, as the npz that the report draws."""
    index: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}

    def add(array: Any, kind: str, times: Any = None, **facts: Any) -> None:
        name = f"a{len(index)}"
        arrays[name] = np.asarray(array, dtype=np.float32)
        if times is not None:
            arrays[f"{name}_times"] = np.asarray(times, dtype=np.float32)
        index.append({"array": name, "kind": kind, **facts})

    solves: list[ReferenceSpec | SampleSpec] = [*plan.references(), *plan.samples()]
    called = _called(plan)
    first = {_but_seed(flow_columns(solve.flow)): solve.flow.key for solve in reversed(solves)}
    for task in plan.suite.problems():
        add(task.data.take("test", _many(task.data.shape, task.data.size("test"))), "data", data=task.data.label())
    for reference in plan.references():
        columns = flow_columns(reference.flow)
        chosen = first[_but_seed(columns)] == reference.flow.key
        if chosen and math.prod(reference.flow.data.shape) == 2 and store.has(reference.key):
            tensors = store.read(reference.key).tensors
            flow, _ = called.get(reference.key, (columns["method"], ""))  # a teacher may have no rows
            add(tensors["trajectories"][:, :64], "trajectory", times=tensors["times"], **_named(columns, flow))
    for sample in plan.samples():
        columns = flow_columns(sample.flow)
        chosen = first[_but_seed(columns)] == sample.flow.key
        info = store.info(sample.key) if chosen else None
        if info is not None:
            x = store.read(sample.key).tensors["x"][: _many(sample.flow.data.shape, sample.n)]
            flow, sampler = called[sample.key]
            add(x, "samples", **_named(columns, flow), solver=sampler, nfe=info["nfe"])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, index=np.array(json.dumps(index)), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _but_seed(columns: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(columns[name] for name in FLOW_COLUMNS if name != "seed")


def _called(plan: Plan) -> dict[str, tuple[str, str]]:
    """For each solve the labels that tell its flow and its solver from others, as the tables have them."""
    table = frame(cell.columns for cell in plan.cells if isinstance(cell.spec, MeasureSpec))
    labels = list(zip(flow_labels(table), sampler_labels(table), strict=True))
    specs = [cell.spec for cell in plan.cells if isinstance(cell.spec, MeasureSpec)]
    flows = {spec.reference.key: label for spec, label in zip(specs, labels, strict=True)}
    return flows | {spec.cell.key: label for spec, label in zip(specs, labels, strict=True)}


def _named(columns: dict[str, Any], flow: str) -> dict[str, Any]:
    return {"method": flow, "seed": columns["seed"], "data": columns["data"]}


def _many(shape: tuple[int, ...], size: int | None) -> int:
    wanted = PICTURED if math.prod(shape) == 2 else 36
    return wanted if size is None else min(wanted, size)
